"""What loads may count on, with readings that say what they are told to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cortex.core.errors import InsufficientMemory
from cortex.fleet.fit import FLOOR_BYTES
from cortex.neuron import memory as subject
from cortex.neuron.memory import Account, Memory
from cortex.neuron.needs import Need
from cortex.neuron.readings import ProcessMemory
from cortex.wire.node_api import DeviceHealth, DeviceInfo, Discovery

MIB = 1 << 20
TOTAL = 1000 * MIB
PID = 10
ESSENTIALS: dict[str, Any] = {"hostname": "", "os": "", "kernel": "", "boot_id": "", "version": "", "engines": []}


class Gauges:
    """Two GPUs and a CPU; what processes hold is what is not free, from the next refresh on."""

    def __init__(self) -> None:
        self.held: dict[int, dict[int, int]] = {}
        self.declared: dict[str, dict[int, int]] = {}
        self.leaked: dict[int, int] = {}
        self.refreshes = 0
        self.frees_at = 0

    def devices(self) -> list[DeviceHealth]:
        used = [
            self.leaked.get(index, 0)
            + sum(by_device.get(index, 0) for by_device in (*self.held.values(), *self.declared.values()))
            for index in range(3)
        ]
        return [
            DeviceHealth(index=index, memory_used_bytes=bytes_, memory_free_bytes=TOTAL - bytes_)
            for index, bytes_ in enumerate(used)
        ]

    async def refresh(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.refreshes += 1
        if self.refreshes == self.frees_at:
            self.leaked.clear()

    def watch(self, pid: int) -> None:
        self.held.setdefault(pid, {})

    def unwatch(self, pid: int) -> None:
        self.held.pop(pid, None)

    def memory_of(self, pid: int) -> int | None:
        return sum(self.held.get(pid, {}).values())

    def usage_of(self, pid: int) -> ProcessMemory | None:
        return ProcessMemory(self.held[pid]) if self.held.get(pid) else None

    def peak_of(self, pid: int) -> dict[int, int]:
        return self.held.get(pid, {})

    def declare(self, index: int, owner: str, bytes_: int) -> None:
        self.declared.setdefault(owner, {})[index] = bytes_

    def release(self, owner: str) -> None:
        self.declared.pop(owner, None)


@pytest.fixture
def gauges() -> Gauges:
    return Gauges()


@pytest.fixture
def memory(gauges: Gauges) -> Memory:
    return memory_of(gauges)


def memory_of(gauges: Gauges) -> Memory:
    kinds = ["cuda", "cuda", "cpu"]
    devices = [DeviceInfo(index=i, name=k, kind=k, memory_total_bytes=TOTAL) for i, k in enumerate(kinds)]
    return Memory(Discovery(**ESSENTIALS, devices=devices), gauges)


def need(*mb: int) -> Need:
    return Need({index: each * MIB for index, each in enumerate(mb) if each}, "estimate")


def free_mb(memory: Memory) -> list[int]:
    return [room.free_bytes // MIB for room in memory.rooms()]


def reserve(memory: Memory, *mb: int, owner: str = "m#1", pid: int = PID) -> None:
    needed = need(*mb)
    memory.reserve(owner, "m", list(needed.by_device), needed, pid)


def test_without_a_reservation_there_is_nothing_to_tell(memory: Memory) -> None:
    assert memory.account("m#1") == Account()
    assert not memory.account("m#1").is_reserved
    assert free_mb(memory) == [1000, 1000, 1000]


def test_a_reservation_counts_until_the_process_has_taken_it(memory: Memory, gauges: Gauges) -> None:
    reserve(memory, 500, 300)
    whole = free_mb(memory)
    gauges.held[PID] = {0: 400 * MIB, 1: 0}
    account, reserved = memory.account("m#1"), [device.memory_reserved_bytes // MIB for device in memory.devices()]

    assert whole == free_mb(memory) == [500, 700, 1000]
    assert account.is_reserved
    assert (account.devices, account.need) == ((0, 1), need(500, 300))
    assert (account.held, account.reserved) == ({0: 400 * MIB, 1: 0}, {0: 100 * MIB, 1: 300 * MIB})
    assert reserved == [100, 300, 0]


def test_what_a_process_holds_of_the_ram_takes_nothing_off_its_reservation_on_a_gpu(
    memory: Memory, gauges: Gauges
) -> None:
    reserve(memory, 500)
    gauges.held[PID] = {2: 300 * MIB}

    assert free_mb(memory) == [500, 1000, 700]
    assert memory.account("m#1").held == {}


def test_a_process_that_takes_more_than_it_reserved_gives_nothing_back(memory: Memory, gauges: Gauges) -> None:
    reserve(memory, 500)
    gauges.held[PID] = {0: 600 * MIB}

    assert free_mb(memory) == [400, 1000, 1000]
    assert memory.account("m#1").reserved == {0: 0}


def test_a_loaded_replica_holds_what_is_measured(memory: Memory, gauges: Gauges) -> None:
    reserve(memory, 500)
    gauges.held[PID] = {0: 400 * MIB, 2: 50 * MIB}
    memory.settle("m#1", {})
    account = memory.account("m#1")

    assert (account.held, account.peak, account.reserved) == ({0: 400 * MIB}, {0: 400 * MIB}, {})
    assert account.is_reserved
    assert free_mb(memory) == [600, 1000, 950]


def test_a_device_that_does_not_tell_is_taken_to_hold_what_was_reserved_but_not_to_have_measured_it(
    memory: Memory,
) -> None:
    reserve(memory, 500)
    memory.settle("m#1", {})
    account = memory.account("m#1")

    assert (account.held, account.peak) == ({0: 500 * MIB}, {})


def test_what_is_declared_counts_as_measured(memory: Memory) -> None:
    reserve(memory, 500)
    memory.settle("m#1", {0: 450 * MIB})
    account = memory.account("m#1")

    assert (account.held, account.peak) == ({0: 450 * MIB}, {0: 450 * MIB})
    memory.release("m#1", PID)
    assert (memory.account("m#1"), free_mb(memory)) == (Account(), [1000, 1000, 1000])


def test_a_reservation_that_does_not_fit_is_refused_and_leaves_nothing(memory: Memory) -> None:
    reserve(memory, 500)
    with pytest.raises(InsufficientMemory, match="56 MiB are missing"):
        reserve(memory, 300, owner="m#2", pid=11)

    assert not memory.account("m#2").is_reserved
    assert free_mb(memory) == [500, 1000, 1000]


@given(st.lists(st.tuples(st.integers(0, 800), st.integers(0, 800)), max_size=8))
def test_loads_at_once_never_reserve_more_than_there_is(loads: list[tuple[int, int]]) -> None:
    memory = memory_of(Gauges())
    let_in = []
    for at, mb in enumerate(loads):
        try:
            reserve(memory, *mb, owner=f"m#{at}", pid=at)
        except InsufficientMemory:
            continue
        let_in.append(mb)

    for index in (0, 1):
        reserved = sum(mb[index] for mb in let_in)
        assert reserved * MIB <= TOTAL - FLOOR_BYTES
        assert free_mb(memory)[index] == 1000 - reserved


def unload(memory: Memory, gauges: Gauges, *, leaks_mb: int) -> list[str]:
    """End the replica of PID, whose memory on device 0 is not all back at once, and return what was logged."""
    levels = memory.levels_without("m#1")
    memory.release("m#1", PID)
    gauges.leaked = {0: leaks_mb * MIB}
    with capture_logs() as logs:
        anyio.run(memory.freed, "m", levels)
    return [line["event"] for line in logs]


@pytest.fixture
def loaded(memory: Memory, gauges: Gauges, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that holds 500 MiB on a GPU and 300 MiB of RAM."""
    monkeypatch.setattr(subject, "FREED_RETRY_SECONDS", 0.001)
    reserve(memory, 500)
    gauges.held[PID] = {0: 500 * MIB, 2: 300 * MIB}
    memory.settle("m#1", {})


@pytest.mark.usefixtures("loaded")
def test_memory_that_is_back_at_once_is_not_waited_for(memory: Memory, gauges: Gauges) -> None:
    assert unload(memory, gauges, leaks_mb=40) == []
    assert gauges.refreshes == 1


@pytest.mark.usefixtures("loaded")
def test_memory_that_a_driver_gives_back_later_is_waited_for(memory: Memory, gauges: Gauges) -> None:
    gauges.frees_at = 4

    assert unload(memory, gauges, leaks_mb=500) == []
    assert gauges.refreshes == 4


@pytest.mark.usefixtures("loaded")
def test_memory_that_does_not_come_back_is_told_and_not_waited_for_forever(
    memory: Memory, gauges: Gauges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "FREED_SECONDS", 0.02)

    assert unload(memory, gauges, leaks_mb=500) == ["memory_not_back"]


@pytest.mark.usefixtures("loaded")
def test_a_load_beside_that_takes_what_came_back_is_no_reason_to_wait(memory: Memory, gauges: Gauges) -> None:
    levels = memory.levels_without("m#1")
    memory.release("m#1", PID)
    reserve(memory, 600, owner="n#2", pid=11)
    gauges.held[11] = {0: 600 * MIB}
    anyio.run(memory.freed, "m", levels)

    assert gauges.refreshes == 1


def test_a_replica_that_never_had_memory_leaves_nothing_to_wait_for(memory: Memory) -> None:
    assert memory.levels_without("m#1") == {}
