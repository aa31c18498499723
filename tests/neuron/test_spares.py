"""Processes that wait for a model: who gets one, when the next is started, and that none is left."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psutil
import pytest
from anyio.lowlevel import checkpoint
from structlog.testing import capture_logs

from cortex.neuron import spares as subject
from cortex.neuron.config import NeuronConfig
from cortex.neuron.engine_process import EngineProcess
from cortex.neuron.spares import Spares, spares_of
from cortex.wire.engine_api import Device, EngineSpec

BOUND_SECONDS = 20
CPU = Device(0, "cpu", "cpu", 8 << 30)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(BOUND_SECONDS):
            await scene()

    anyio.run(bounded)
    assert psutil.Process().children() == []


@asynccontextmanager
async def spares(count: int = 1) -> AsyncIterator[Spares]:
    """Spares of the simulated engine, all of them ready; ended with the block."""
    kept = Spares({"simulated": count}, 10.0, {})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        await until_ready(kept, count)
        yield kept
        kept.close()


async def until_ready(kept: Spares, count: int) -> None:
    while len(kept.ready) < count:
        await anyio.sleep(0.01)


async def load(process: EngineProcess) -> None:
    await process.until_ready()
    spec = EngineSpec(model="m", engine="simulated", path="", devices=(CPU,), options={"load_seconds": 0})
    await process.load(spec, lambda _: None, 10)


def test_a_load_gets_a_process_that_is_ready_and_the_next_spare_waits_for_the_end_of_the_load() -> None:
    async def scene() -> None:
        async with spares() as kept:
            async with kept.process("simulated", "m", {}) as process:
                assert process.ready.is_set()
                await load(process)
                for _ in range(10):
                    await checkpoint()
                assert len(psutil.Process().children()) == 1
                kept.replace("simulated", {})
                await until_ready(kept, 1)
                assert len(psutil.Process().children()) == 2
                await process.stop()
            assert len(psutil.Process().children()) == 1

    play(scene)


def test_without_a_spare_a_load_gets_a_new_process() -> None:
    async def scene() -> None:
        async with Spares({}, 10.0, {}).process("simulated", "m", {}) as process:
            assert not process.ready.is_set()
            await load(process)
            await process.stop()

    play(scene)


def test_a_spare_for_other_devices_is_not_taken_and_the_next_is_for_those() -> None:
    other = {"CUDA_VISIBLE_DEVICES": "1"}

    async def scene() -> None:
        async with spares() as kept:
            (spare,) = psutil.Process().children()
            async with kept.process("simulated", "m", other) as process:
                await process.until_ready()
                assert process.pid != spare.pid
                kept.replace("simulated", other)
                await process.stop()
            await anyio.to_thread.run_sync(spare.wait, 5)
            await until_ready(kept, 1)
            async with kept.process("simulated", "m", other) as process:
                assert process.ready.is_set()

    play(scene)


@pytest.mark.parametrize("leave", ["cancel", "raise"])
def test_a_block_that_is_left_in_a_hurry_leaves_no_process(leave: str) -> None:
    async def scene() -> None:
        async with spares() as kept:
            with anyio.CancelScope() as scope:
                try:
                    async with kept.process("simulated", "m", {}) as process:
                        pid = process.pid
                        if leave == "raise":
                            raise ValueError
                        scope.cancel()
                        await checkpoint()
                except ValueError:
                    pass
            assert not psutil.pid_exists(pid)

    play(scene)


def test_a_spare_that_dies_is_replaced_and_that_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(subject, "RETRY_SECONDS", 0.01)

    async def scene() -> None:
        async with spares() as kept:
            (spare,) = psutil.Process().children()
            with capture_logs() as logs:
                os.kill(spare.pid, signal.SIGKILL)
                while not logs:
                    await anyio.sleep(0.01)
            await until_ready(kept, 1)

            assert (logs[0]["event"], logs[0]["engine"]) == ("spare_ended", "simulated")

    play(scene)


@pytest.mark.parametrize(
    ("told", "installed", "wanted"),
    [
        (None, ["llamacpp", "simulated"], {"llamacpp": 1}),
        (None, ["simulated"], {}),
        ({}, ["llamacpp"], {}),
        ({"simulated": 2, "vllm": 1}, ["simulated"], {"simulated": 2}),
    ],
)
def test_one_spare_of_the_default_engine_is_kept_unless_told(
    told: dict[str, int] | None, installed: list[str], wanted: dict[str, int]
) -> None:
    assert spares_of(NeuronConfig(spares=told), installed) == wanted


def test_a_spare_is_called_one_until_it_has_a_model() -> None:
    async def scene() -> None:
        async with spares() as kept:
            (spare,) = psutil.Process().children()
            assert " ".join(spare.cmdline()).strip() == "cortex engine simulated, spare"
            async with kept.process("simulated", "m", {}) as process:
                await load(process)
                assert " ".join(spare.cmdline()).strip() == "cortex.engines.host --engine simulated m"

    play(scene)
