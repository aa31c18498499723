"""Load and unload a model again and again: the daemon ends where it began.

    python bench/cycles.py [--cycles 100] [--model GGUF]

Prints the resident memory, descriptors, threads and tasks of the daemon at the start (after a few cycles, when what is
imported late is imported) and at the end, and fails if one has grown by more than 2 %.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from harness import Daemon, Fleet, engine_pids

WARM_CYCLES = 10
ALLOWED = 1.02


def figures(node: Daemon) -> dict[str, float]:
    """Return what must not grow."""
    process = psutil.Process(node.process.pid)
    metrics = httpx2.get(node.url + "/metrics", timeout=10, trust_env=False).text
    tasks = re.search(r"^neuron_tasks (\S+)", metrics, re.MULTILINE)
    return {
        "RSS MiB": process.memory_info().rss / (1 << 20),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "tasks": float(tasks[1]) if tasks else 0.0,
        "engine processes": len(engine_pids(node)),
    }


def cycle(node: Daemon, spec: dict[str, Any]) -> None:
    """Load, ask, unload."""
    body = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    for path, order in (
        ("/models/load", {"model_id": "m", **spec}),
        ("/v1/chat/completions", body),
        ("/models/unload", {"model_id": "m"}),
    ):
        httpx2.post(node.url + path, json=order, timeout=120, trust_env=False).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--model", help="a GGUF file for llama.cpp; without it the simulated engine")
    arguments = parser.parse_args()
    spec = {"source": arguments.model, "context": 512} if arguments.model else {"engine": "simulated"}
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(Path(directory))
        try:
            node = fleet.neuron("a", config="spares = {}")
            print(f"fresh: {figures(node)['RSS MiB']:.1f} MiB")
            for _ in range(WARM_CYCLES):
                cycle(node, spec)
            before, began = figures(node), time.perf_counter()
            for _ in range(arguments.cycles):
                cycle(node, spec)
            after, seconds = figures(node), (time.perf_counter() - began) / arguments.cycles
        finally:
            fleet.close()
    print(f"{arguments.cycles} cycles of {seconds:.2f} s")
    for name, value in before.items():
        print(f"{name:17} {value:8.1f} -> {after[name]:8.1f}")
    return any(after[name] > value * ALLOWED for name, value in before.items())


if __name__ == "__main__":
    sys.exit(main())
