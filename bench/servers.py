#!/usr/bin/env python3
"""The same GGUF behind a gateway and a neuron, behind llama.cpp's own server, and behind llama-cpp-python's.

All with the same threads, context and slots, in turns. llama.cpp's own is the listener that is inside the binding; the
server of llama-cpp-python answers one request at a time, and is left out unless an environment with it is named: it
comes as source, whose build takes minutes on many cores.

    python3 -m venv ENV && ENV/bin/pip install 'llama-cpp-python[server]'
    .venv/bin/python bench/servers.py [--llama-cpp-python ENV/bin/python] [--rounds 3] [--tokens 48] [--streams 1,4,8]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from overhead import (
    CONTEXT,
    STEP_TOKENS,
    Ask,
    chat,
    compare,
    demo_model,
    first_tokens,
    fleet,
    free_port,
    over_http,
    wait_for,
)

OWN = """
import sys, time
import xllamacpp
path, threads, context, slots, step, port = sys.argv[1], *map(int, sys.argv[2:7])
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx, p.n_batch, p.n_ubatch = path, slots, context * slots, step, step
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.load_mode, p.fit_params, p.cache_ram_mib = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE, False, 0
p.verbosity, p.n_gpu_layers, p.port, p.ui = 0, 0, port, False
server = xllamacpp.Server(p)
sys.stdin.read()
"""


@contextmanager
def server(command: list[str], port: int) -> Iterator[int]:
    """Run *command* until the end; yield *port* once it answers there."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/v1/models")
            yield port
        finally:
            process.terminate()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp-python", type=Path, help="a Python that has llama-cpp-python[server]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--streams", default="1,4,8")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.streams.split(",")]
    model, threads, slots = demo_model(), max(1, len(os.sched_getaffinity(0)) - 1), max(levels)
    options = f"threads = {threads}, slots = {slots}, batch = {STEP_TOKENS}, cache_ram_mib = 0"
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(slots))
        port = free_port()
        figures = map(str, (threads, CONTEXT, slots, STEP_TOKENS, port))
        own = stack.enter_context(server([sys.executable, "-c", OWN, str(model), *figures], port))
        _, api = stack.enter_context(fleet(model, options))
        sides: dict[str, Ask] = {
            "llama.cpp's own": partial(over_http, pool, own),
            "gateway and neuron": partial(over_http, pool, api),
        }
        if (python := arguments.llama_cpp_python) is not None:
            port = free_port()
            told = f"--model {model} --n_ctx {CONTEXT} --n_threads {threads} --n_batch {STEP_TOKENS} --port {port}"
            command = [str(python), "-m", "llama_cpp.server", *told.split(), "--model_alias", "m"]
            sides["llama-cpp-python"] = partial(over_http, pool, stack.enter_context(server(command, port)))
        else:
            print("llama-cpp-python is not compared: name an environment with --llama-cpp-python")
        over_http(pool, api, [chat("Hello", 1)])  # loads it
        first_tokens(sides, 10 * arguments.rounds)
        for streams in levels:
            compare(sides, streams, arguments.tokens, arguments.rounds)


if __name__ == "__main__":
    main()
