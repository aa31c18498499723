#!/usr/bin/env python3
"""What a GGUF model was said to take, against what its process holds: once loaded, and at most after some prompts.

Each shape is a process of its own, asked for its estimate, loaded, and given more prompts than it has slots. The error
is that of the estimate against its resident memory, which is what a node measures; PSS leaves out what it shares.

    .venv/bin/python bench/estimates.py [--model FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
from overhead import DEMO

from cortex.neuron.engine_process import EngineProcess
from cortex.wire.engine_api import Device, EngineSpec
from cortex.wire.json import encode

MIB = 1 << 20
SHAPES: list[dict[str, Any]] = [
    {"context": 512, "slots": 1},
    {"context": 2048, "slots": 1},
    {"context": 2048, "slots": 4},
    {"context": 2048, "slots": 4, "flash_attention": False},
    {"context": 2048, "slots": 8},
    {"context": 8192, "slots": 4},
    {"context": 2048, "slots": 4, "kv_type": "q8_0"},
    {"context": 8192, "slots": 4, "kv_type": "q8_0"},
    {"context": 2048, "slots": 4, "kv_type": "q4_0"},
    {"context": 2048, "slots": 2, "cache_ram_mib": 32},
]


@dataclass
class Seen:
    """Bytes: what was said, and what the process held."""

    estimate: int
    loaded: int
    peak: int
    peak_pss: int


def spec_of(path: Path, shape: dict[str, Any]) -> EngineSpec:
    """Return how *shape* is loaded on this machine's CPU."""
    total = psutil.virtual_memory().total
    options = {key: value for key, value in shape.items() if key != "context"}
    cpu = Device(0, "cpu", "cpu", total, 0, total)
    return EngineSpec(
        model="m", engine="llamacpp", path=str(path), devices=(cpu,), context=shape["context"], options=options
    )


async def see(path: Path, shape: dict[str, Any]) -> Seen:
    """Estimate, load and fill one model."""
    process = EngineProcess("llamacpp", "m", env=dict(os.environ), heartbeat_seconds=60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.run)
        await process.until_ready()
        spec = spec_of(path, shape)
        estimate = (await process.estimate(spec)).bytes_per_device[0]
        await process.load(spec, lambda _: None, 120)
        own = psutil.Process(process.pid)
        loaded = own.memory_info().rss
        # The cache is written all over when it is made: prompts add no more than the buffers of a step.
        for at in range(shape["slots"] + 2):
            await ask(process, f"Story {at}: " + "and then " * (min(shape["context"], 1024) // 4 - 20))
        memory = own.memory_full_info()
        seen = Seen(estimate, loaded, memory.rss, memory.pss)
        await process.stop()
    return seen


async def ask(process: EngineProcess, prompt: str) -> None:
    """Compute *prompt* and a few tokens after it."""
    body = encode({"prompt": prompt, "max_tokens": 8, "temperature": 0.0})
    async for _ in process.generate("completion", body, 1):
        pass


def lines(path: Path) -> Iterator[str]:
    """Yield the table as it is measured."""
    yield f"{'shape':58} {'estimate':>9} {'loaded':>8} {'peak':>8} {'PSS':>8}   error"
    for shape in SHAPES:
        seen = anyio.run(see, path, shape)
        figures = "".join(f"{value // MIB:9}" for value in (seen.estimate, seen.loaded, seen.peak, seen.peak_pss))
        told = ", ".join(f"{key} {value}" for key, value in shape.items())
        yield f"{told:58} {figures}   {seen.estimate / seen.peak - 1:+.1%}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; SmolLM2 135M without")
    path = parser.parse_args().model
    if path is None:
        from cortex.neuron.config import default_cache
        from cortex.neuron.sources import fetch

        found = anyio.run(
            partial(fetch, DEMO, quant=None, cache=default_cache(os.environ), on_progress=lambda *_: None)
        )
        path = found.path
    for line in lines(path):
        print(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
