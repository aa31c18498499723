from __future__ import annotations

import threading
from collections.abc import Mapping, Set

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading, found_device
from cortex.neuron.devices.simulated import SimulatedProbe
from cortex.neuron.readings import Readings
from cortex.wire.node_api import DeviceHealth, DeviceInfo

GIB = 1 << 30
GPU = DeviceInfo(index=0, name="RTX 4090", kind="cuda", memory_total_bytes=24 * GIB, ordinal=0)
SECOND_GPU = DeviceInfo(index=1, name="RTX 3060", kind="cuda", memory_total_bytes=12 * GIB, ordinal=1)
CPU = DeviceInfo(index=2, name="Xeon", kind="cpu", memory_total_bytes=64 * GIB, ordinal=0)


class FakeProbe:
    """Answers for devices of its kind from tables by ordinal; an ordinal without a reading is unreadable."""

    def __init__(
        self, kind: str, readings: dict[int, Reading], held: Mapping[int, dict[int, int]] | None = None
    ) -> None:
        self.kind = kind
        self.readings = readings
        self.held = held or {}
        self.rounds = 0

    def find(self) -> Found:
        return Found()

    def read(self, device: DeviceInfo) -> Reading:
        self.rounds += 1
        if device.ordinal not in self.readings:
            raise DeviceUnreadable("GPU is lost")
        return self.readings[device.ordinal]

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        return {pid: held for pid, held in self.held.get(device.ordinal, {}).items() if pid in pids}


def gpus(held: Mapping[int, dict[int, int]] | None = None) -> FakeProbe:
    return FakeProbe("cuda", {0: Reading(1 * GIB, 23 * GIB, 40.0, 61.0), 1: Reading(2 * GIB, 10 * GIB)}, held)


def cpu(held: dict[int, int] | None = None) -> FakeProbe:
    return FakeProbe("cpu", {0: Reading(4 * GIB, 60 * GIB, 5.0)}, {0: held or {}})


def free_bytes(readings: Readings) -> dict[int, int]:
    return {health.index: health.memory_free_bytes for health in readings.devices()}


def test_a_reading_becomes_the_health_of_its_device() -> None:
    readings = Readings([GPU, CPU], [gpus(), cpu()])

    anyio.run(readings.refresh)

    assert readings.devices() == [
        DeviceHealth(
            index=0,
            memory_used_bytes=1 * GIB,
            memory_free_bytes=23 * GIB,
            vram_used_mb=1024,
            vram_free_mb=23 * 1024,
            utilization_pct=40.0,
            temp_c=61.0,
        ),
        DeviceHealth(
            index=2,
            memory_used_bytes=4 * GIB,
            memory_free_bytes=60 * GIB,
            vram_used_mb=4096,
            vram_free_mb=60 * 1024,
            utilization_pct=5.0,
        ),
    ]


def test_before_the_first_reading_no_device_is_listed() -> None:
    """Nobody plans with memory that nobody measured."""
    readings = Readings([GPU], [gpus()])

    assert readings.devices() == []


def test_age_counts_from_the_start_of_the_last_reading() -> None:
    now = 100.0
    readings = Readings([GPU], [gpus()], clock=lambda: now)

    unread = readings.age_seconds(103.0)
    now = 110.0
    anyio.run(readings.refresh)

    assert unread == 3.0
    assert readings.age_seconds(111.5) == 1.5


def test_a_refresh_shows_the_memory_that_came_back() -> None:
    probe = gpus()
    readings = Readings([GPU], [probe])
    anyio.run(readings.refresh)

    probe.readings[0] = Reading(0, 24 * GIB)
    anyio.run(readings.refresh)

    assert free_bytes(readings) == {0: 24 * GIB}


def test_run_reads_again_and_again() -> None:
    probe = gpus()
    readings = Readings([GPU], [probe], interval_seconds=0)

    async def until_third_round() -> None:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(readings.run)
                while probe.rounds < 3:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()

    anyio.run(until_third_round)

    assert free_bytes(readings) == {0: 23 * GIB}


class HangingProbe(FakeProbe):
    """Says when a read has begun, and ends it when it is let go."""

    def __init__(self) -> None:
        super().__init__("cuda", {0: Reading(9 * GIB, 15 * GIB)})
        self.hang = False
        self.begun = anyio.Event()
        self.let_go = threading.Event()

    def read(self, device: DeviceInfo) -> Reading:
        if self.hang:
            anyio.from_thread.run_sync(self.begun.set)
            self.let_go.wait(5)
        return super().read(device)


def test_while_a_device_is_being_read_the_last_reading_answers_at_once() -> None:
    async def scenario() -> None:
        probe = HangingProbe()
        readings = Readings([GPU], [probe])
        await readings.refresh()
        probe.hang = True
        probe.readings[0] = Reading(0, 24 * GIB)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(readings.refresh)
            await probe.begun.wait()
            during = free_bytes(readings)
            probe.let_go.set()

        assert during == {0: 15 * GIB}
        assert free_bytes(readings) == {0: 24 * GIB}

    anyio.run(scenario)


def test_a_hanging_driver_does_not_hold_up_the_caller_and_its_late_answer_is_dropped() -> None:
    async def scenario() -> None:
        probe = HangingProbe()
        readings = Readings([GPU], [probe])
        await readings.refresh()
        probe.hang = True
        probe.readings[0] = Reading(0, 24 * GIB)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(readings.refresh)
            await probe.begun.wait()
            tasks.cancel_scope.cancel()
        probe.let_go.set()

        assert free_bytes(readings) == {0: 15 * GIB}

    anyio.run(scenario)


def test_a_device_that_cannot_be_read_costs_only_its_own_reading() -> None:
    probe = gpus()
    readings = Readings([GPU, SECOND_GPU], [probe])
    anyio.run(readings.refresh)

    del probe.readings[0]
    probe.readings[1] = Reading(0, 12 * GIB)
    anyio.run(readings.refresh)

    assert free_bytes(readings) == {0: 23 * GIB, 1: 12 * GIB}
    assert readings.warnings() == ["device 0 (RTX 4090) cannot be read, its last reading is kept: GPU is lost"]


def test_an_unreadable_device_is_logged_once_and_so_is_its_return() -> None:
    probe = gpus()
    lost = probe.readings.pop(0)
    readings = Readings([GPU], [probe])

    with capture_logs() as logs:
        for _ in range(3):
            anyio.run(readings.refresh)
        probe.readings[0] = lost
        anyio.run(readings.refresh)

    assert [(entry["event"], entry["level"]) for entry in logs] == [
        ("device_unreadable", "warning"),
        ("device_readable_again", "info"),
    ]
    assert readings.warnings() == []


def test_declared_memory_counts_as_used_on_any_device_at_once() -> None:
    simulated = found_device("simulated", 0, "simulated: A100", 80 * GIB)
    readings = Readings([simulated, CPU], [SimulatedProbe(), cpu()])
    anyio.run(readings.refresh)

    readings.declare(0, "qwen", 30 * GIB)
    readings.declare(2, "qwen", 10 * GIB)
    readings.declare(0, "llama", 5 * GIB)

    assert free_bytes(readings) == {0: 45 * GIB, 2: 50 * GIB}
    assert [health.memory_used_bytes for health in readings.devices()] == [35 * GIB, 14 * GIB]


def test_declaring_again_replaces_and_releasing_takes_back_everything() -> None:
    readings = Readings([GPU, SECOND_GPU], [gpus()])
    anyio.run(readings.refresh)

    readings.declare(0, "qwen", 3 * GIB)
    readings.declare(0, "qwen", 5 * GIB)
    readings.declare(1, "qwen", 1 * GIB)
    declared = free_bytes(readings)
    readings.release("qwen")
    readings.release("qwen")

    assert declared == {0: 18 * GIB, 1: 9 * GIB}
    assert free_bytes(readings) == {0: 23 * GIB, 1: 10 * GIB}


def test_more_declared_than_there_is_leaves_nothing_free() -> None:
    readings = Readings([GPU], [gpus()])
    anyio.run(readings.refresh)

    readings.declare(0, "qwen", 30 * GIB)

    assert free_bytes(readings) == {0: 0}


def test_a_device_that_is_not_there_takes_no_declaration() -> None:
    readings = Readings([GPU], [gpus()])

    with pytest.raises(ValueError, match="no device 7"):
        readings.declare(7, "qwen", 1)


def test_a_process_is_measured_with_its_descendants_on_every_device() -> None:
    """Rank 11 is a child of 10; 12 belongs to somebody else."""
    probes = [gpus({0: {10: 6 * GIB, 12: 1 * GIB}, 1: {11: 5 * GIB}}), cpu({10: 2 * GIB, 11: 1 * GIB, 12: 9 * GIB})]
    readings = Readings([GPU, SECOND_GPU, CPU], probes, family=lambda pid: frozenset({pid, 11}))

    readings.watch(10)
    before = readings.memory_of(10)
    anyio.run(readings.refresh)

    usage = readings.usage_of(10)
    assert before is None
    assert usage is not None
    assert usage.bytes_by_device == {0: 6 * GIB, 1: 5 * GIB, 2: 3 * GIB}
    assert readings.memory_of(10) == 14 * GIB


def test_the_peak_of_a_process_outlives_the_readings_after_it() -> None:
    """Device by device: the peaks need not be of the same moment."""
    held = {0: {10: 6 * GIB}, 1: {10: 1 * GIB}}
    readings = Readings([GPU, SECOND_GPU], [gpus(held)], family=lambda pid: frozenset({pid}))
    readings.watch(10)
    for first, second in ((6, 1), (2, 5), (1, 2)):
        held |= {0: {10: first * GIB}, 1: {10: second * GIB}}
        anyio.run(readings.refresh)

    peak = readings.peak_of(10)
    readings.unwatch(10)

    assert peak == {0: 6 * GIB, 1: 5 * GIB}
    assert readings.peak_of(10) == {}


def test_a_device_that_does_not_know_a_process_says_nothing_rather_than_zero() -> None:
    readings = Readings([GPU, CPU], [gpus(), cpu({10: 2 * GIB})], family=lambda pid: frozenset({pid}))

    readings.watch(10)
    anyio.run(readings.refresh)

    usage = readings.usage_of(10)
    assert usage is not None
    assert usage.bytes_by_device == {2: 2 * GIB}


def test_a_process_that_ended_has_no_memory() -> None:
    alive = {10}
    readings = Readings([CPU], [cpu({10: 2 * GIB})], family=lambda pid: frozenset({pid} & alive))
    readings.watch(10)
    anyio.run(readings.refresh)

    alive.clear()
    anyio.run(readings.refresh)

    assert readings.memory_of(10) is None


def test_an_unwatched_process_is_forgotten() -> None:
    readings = Readings([CPU], [cpu({10: 2 * GIB})], family=lambda pid: frozenset({pid}))
    readings.watch(10)
    anyio.run(readings.refresh)

    readings.unwatch(10)
    readings.unwatch(10)
    forgotten = readings.memory_of(10)
    anyio.run(readings.refresh)

    assert forgotten is None
    assert readings.memory_of(10) is None
