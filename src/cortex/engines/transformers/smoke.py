"""Form a group of ranks without a model, and say what it saw. The main of a process of its own: `neuron tp-smoke`.

Started as `python -m cortex.engines.transformers.smoke --ordinals 0,1 [--cpu]`; prints one JSON object a line, each
with `step` and what was seen, `ok` last. A step that fails is `failed` with the reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec

from cortex.engines.transformers.group import Group, GroupFailed
from cortex.engines.transformers.messages import Reduce, SelfCheck
from cortex.wire.json import encode

STEP_SECONDS = 120.0
SIZE_BYTES, ROUNDS = 16 << 20, 5


def say(step: str, **seen: object) -> None:
    """Print what was *seen* at *step*."""
    print(encode({"step": step, **seen}).decode(), flush=True)


def failed(reason: str) -> None:
    """Print why the group is over, and end."""
    say("failed", reason=reason)
    os._exit(1)


def run(ranks: int, device: str) -> None:
    """Start, meet, check, measure, and let go."""
    if find_spec("torch") is None:
        failed("torch is not installed here: pip install 'cortex-fleet[transformers]'")
    began = time.perf_counter()
    group = Group(ranks, failed)
    from cortex.engines.transformers.member import BACKENDS, Member

    try:
        member = Member()
        order = group.join_order(0, device, 1)
        id_ = group.tell(order, STEP_SECONDS)
        say("started", ranks=ranks, pids=[os.getpid(), *group.pids], seconds=time.perf_counter() - began)
        began = time.perf_counter()
        member.join(order)
        group.settle(id_)
        say("rendezvous", backend=BACKENDS[device], seconds=time.perf_counter() - began)
        id_ = group.tell(SelfCheck(0), STEP_SECONDS)
        sums = {0: member.self_check(), **group.settle(id_)}
        say("self_check", expected=ranks, sums={str(rank): value for rank, value in sorted(sums.items())})
        if set(sums.values()) != {float(ranks)}:
            failed("the sum over the ranks is not how many there are")
        id_ = group.tell(Reduce(0, SIZE_BYTES, ROUNDS), STEP_SECONDS)
        seconds = max(member.reduce(SIZE_BYTES, ROUNDS), *group.settle(id_).values(), 0.0)
        say("all_reduce", size_bytes=SIZE_BYTES, seconds=seconds, bytes_per_second=SIZE_BYTES / seconds)
    except (GroupFailed, RuntimeError, ValueError) as error:
        failed(group.failure_after(f"rank 0 of {ranks} failed: {error}"))
    group.close()
    say("ok", ranks=ranks)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="cortex-tp-smoke", description=__doc__)
    parser.add_argument("--ordinals", required=True, help="the GPUs by their own order, or as many numbers as ranks")
    parser.add_argument("--cpu", action="store_true", help="every rank computes on the CPU")
    arguments = parser.parse_args()
    ordinals = arguments.ordinals.split(",")
    if not arguments.cpu:  # before torch looks at them
        os.environ |= {"CUDA_VISIBLE_DEVICES": arguments.ordinals, "HIP_VISIBLE_DEVICES": arguments.ordinals}
    run(len(ordinals), "cpu" if arguments.cpu else "cuda")
    sys.exit(0)


if __name__ == "__main__":
    main()
