"""How long a switch of models takes: loads with and without a spare process, unloads, and A to B to A at the gateway.

    python bench/switch.py [--rounds 5] [--model GGUF]

Real processes on loopback. With --model, llama.cpp loads that file; the gateway's switch has simulated models that take
no time themselves, so that what is left is ours. Rounds with and without a spare take turns, on two neurons that are
up all the time, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from harness import Daemon, Fleet, until

SIMULATED: dict[str, Any] = {"engine": "simulated", "options": {"load_seconds": 0, "memory_mb": 3000}}
DEVICE = '[[simulated_devices]]\nname = "gpu"\nmemory_mb = 4096\n'


def post(node: Daemon, path: str, body: dict[str, Any]) -> float:
    """Return the seconds that an order took."""
    began = time.perf_counter()
    httpx2.post(node.url + path, json=body, timeout=120, trust_env=False).raise_for_status()
    return time.perf_counter() - began


def spares_of(node: Daemon) -> list[psutil.Process]:
    children = psutil.Process(node.process.pid).children()
    return [child for child in children if "spare" in " ".join(child.cmdline())]


def rest(node: Daemon, wanted: bool) -> None:
    """Wait until the spare is there and has imported its engine: until it needs no processor any more."""
    if not wanted:
        return
    (spare,) = until("a spare", lambda: spares_of(node))
    used = -1.0
    while (now := sum(spare.cpu_times()[:2])) != used:
        used = now
        time.sleep(0.3)


def measure(nodes: dict[str, Daemon], spec: dict[str, Any], rounds: int) -> None:
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, node in nodes.items():
            rest(node, name == "with a spare")
            took.setdefault((name, "load"), []).append(post(node, "/models/load", {"model_id": "a", **spec}))
            took.setdefault((name, "unload"), []).append(post(node, "/models/unload", {"model_id": "a"}))
    for (name, what), seconds in sorted(took.items(), key=lambda each: each[0][::-1]):
        median, most = 1000 * statistics.median(seconds), 1000 * max(seconds)
        print(f"  {what:7} {name:16} median {median:6.0f} ms   most {most:6.0f} ms")


def switch(gateway: Daemon, node: Daemon, rounds: int, spare: bool) -> list[float]:
    """Return the seconds from a request to its answer, each for the model that is not loaded."""
    seconds = []
    for turn in range(2 * rounds + 1):
        rest(node, spare)
        body = {"model": "AB"[turn % 2], "max_tokens": 1, "messages": [{"role": "user", "content": "#tokens 1"}]}
        seconds.append(post(gateway, "/v1/chat/completions", body))
    return seconds[1:]  # the first has nothing to displace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a GGUF file for llama.cpp")
    arguments = parser.parse_args()
    for engine, spec in (("simulated", SIMULATED), ("llamacpp", {"source": arguments.model, "context": 2048})):
        if engine == "llamacpp" and arguments.model is None:
            continue
        with tempfile.TemporaryDirectory() as directory:
            fleet = Fleet(Path(directory))
            try:
                nodes = {
                    name: fleet.neuron(str(count), config=f"spares = {{ {engine} = {count} }}\n{DEVICE}")
                    for name, count in (("with a spare", 1), ("without", 0))
                }
                print(f"{engine}:")
                measure(nodes, spec, arguments.rounds)
                (spare,) = spares_of(nodes["with a spare"])
                held, own = spare.memory_info().rss >> 20, spare.memory_full_info().uss >> 20
                print(f"  a spare holds {held} MiB, {own} of its own")
                if engine == "simulated":
                    models = "".join(
                        f'[[models]]\nid = "{name}"\nengine = "simulated"\n'
                        "options = { load_seconds = 0, memory_mb = 3000 }\n"
                        for name in "AB"
                    )
                    for at, (name, node) in enumerate(nodes.items()):
                        gateway = fleet.gateway(models, {"a": node.port}, name=f"gateway{at}")
                        seconds = switch(gateway, node, arguments.rounds, name == "with a spare")
                        print(
                            f"  A to B to A at the gateway, {name}: median {1000 * statistics.median(seconds):.0f} ms"
                        )
            finally:
                fleet.close()


if __name__ == "__main__":
    main()
