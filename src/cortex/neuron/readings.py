"""Own the last reading of every device and every engine process, so that no request ever waits for hardware."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from cortex.core.logging import get_logger
from cortex.neuron.devices.host import process_family
from cortex.neuron.devices.probe import DeviceUnreadable, Probe, Reading
from cortex.wire.node_api import DeviceHealth, DeviceInfo

log = get_logger(__name__)

Family = Callable[[int], frozenset[int]]
"""`family(pid)`: the process and its descendants; empty if it has ended."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What a process and its descendants hold, by device index; the CPU's share is RAM. A device may not tell."""

    bytes_by_device: Mapping[int, int]

    @property
    def total_bytes(self) -> int:
        """What they hold on all devices together."""
        return sum(self.bytes_by_device.values())


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What one round over all devices and processes found."""

    readings: dict[int, Reading]
    failures: dict[int, str]
    processes: dict[int, ProcessMemory]


class Readings:
    """The latest readings: `run` and `refresh` read in a thread, all else answers at once from what they left."""

    def __init__(
        self,
        devices: Sequence[DeviceInfo],
        probes: Sequence[Probe],
        *,
        interval_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        family: Family = process_family,
    ) -> None:
        """Each of *devices*, as `discover` returned them, is read by the probe of its kind."""
        by_kind = {probe.kind: probe for probe in probes}
        self._devices = {device.index: device for device in devices}
        self._probes = {device.index: by_kind[device.kind] for device in devices}
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._family = family
        # One reader at a time: an older reading never overwrites a newer one.
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._read_at = clock()
        self._readings: dict[int, Reading] = {}
        self._failures: dict[int, str] = {}
        self._watched: set[int] = set()
        self._processes: dict[int, ProcessMemory] = {}
        self._peaks: dict[int, dict[int, int]] = {}
        self._declared: dict[str, dict[int, int]] = {}

    async def run(self) -> None:
        """Read at once and then every interval, until cancelled."""
        while True:
            await self.refresh()
            await anyio.sleep(self._interval_seconds)

    async def refresh(self) -> None:
        """Read everything now. A driver that hangs holds up no caller beyond its own deadline."""
        started, watched = self._clock(), frozenset(self._watched)
        sweep = await anyio.to_thread.run_sync(
            self._sweep, watched, limiter=self._one_at_a_time, abandon_on_cancel=True
        )
        self._apply(sweep, started)

    def devices(self) -> list[DeviceHealth]:
        """Return the last reading of each device, in index order; one that was never read is left out."""
        return [self._health(index) for index in sorted(self._readings)]

    def age_seconds(self, now: float) -> float:
        """Return how long ago the last reading began; before the first one, how long this object exists."""
        return now - self._read_at

    def warnings(self) -> list[str]:
        """Return one sentence for each device that cannot be read at the moment."""
        return [
            f"device {index} ({self._devices[index].name}) cannot be read, its last reading is kept: {reason}"
            for index, reason in sorted(self._failures.items())
        ]

    def watch(self, pid: int) -> None:
        """Measure the process *pid* from the next reading on."""
        self._watched.add(pid)

    def unwatch(self, pid: int) -> None:
        """Forget the process *pid*."""
        self._watched.discard(pid)
        self._processes.pop(pid, None)
        self._peaks.pop(pid, None)

    def memory_of(self, pid: int) -> int | None:
        """Return the bytes that *pid* and its descendants held; None if it has ended or was not measured yet."""
        usage = self.usage_of(pid)
        return None if usage is None else usage.total_bytes

    def usage_of(self, pid: int) -> ProcessMemory | None:
        """Return the same, device by device; a GPU that does not tell is absent."""
        return self._processes.get(pid)

    def peak_of(self, pid: int) -> Mapping[int, int]:
        """Return the most bytes that *pid* and its descendants held at any reading, by device; empty if none told."""
        return self._peaks.get(pid, {})

    def declare(self, index: int, owner: str, bytes_: int) -> None:
        """Count *bytes_* as used on a device from now on, whatever it measures; replaces what *owner* had there."""
        if index not in self._devices:
            raise ValueError(f"there is no device {index}")
        self._declared.setdefault(owner, {})[index] = bytes_

    def release(self, owner: str) -> None:
        """Take back all that *owner* declared."""
        self._declared.pop(owner, None)

    def _health(self, index: int) -> DeviceHealth:
        reading = self._readings[index]
        declared = sum(by_device.get(index, 0) for by_device in self._declared.values())
        used, free = reading.used_bytes + declared, max(0, reading.free_bytes - declared)
        return DeviceHealth(
            index=index,
            memory_used_bytes=used,
            memory_free_bytes=free,
            vram_used_mb=used >> 20,
            vram_free_mb=free >> 20,
            utilization_pct=reading.utilization_pct,
            temp_c=reading.temp_c,
        )

    def _sweep(self, watched: Collection[int]) -> _Sweep:
        """Read all devices and the *watched* processes; runs in a thread and changes nothing here."""
        readings: dict[int, Reading] = {}
        failures: dict[int, str] = {}
        for index, device in self._devices.items():
            try:
                readings[index] = self._probes[index].read(device)
            except DeviceUnreadable as error:
                failures[index] = str(error)
        return _Sweep(readings, failures, self._measure(watched))

    def _measure(self, watched: Collection[int]) -> dict[int, ProcessMemory]:
        """Return what each of *watched* holds with its descendants; one of which no device knows is left out."""
        families = {pid: members for pid in watched if (members := self._family(pid))}
        if not families:
            return {}
        everyone = frozenset().union(*families.values())
        held = {index: self._probes[index].memory_by_pid(d, everyone) for index, d in self._devices.items()}
        usage = {pid: _share(held, members) for pid, members in families.items()}
        return {pid: ProcessMemory(share) for pid, share in usage.items() if share}

    def _apply(self, sweep: _Sweep, started: float) -> None:
        for index in sorted(sweep.failures.keys() - self._failures.keys()):
            log.warning("device_unreadable", device=index, name=self._devices[index].name, reason=sweep.failures[index])
        for index in sorted(self._failures.keys() - sweep.failures.keys()):
            log.info("device_readable_again", device=index, name=self._devices[index].name)
        self._readings |= sweep.readings
        self._failures = sweep.failures
        self._processes = {pid: usage for pid, usage in sweep.processes.items() if pid in self._watched}
        for pid, usage in self._processes.items():
            before = self._peaks.get(pid, {})
            self._peaks[pid] = before | {i: max(held, before.get(i, 0)) for i, held in usage.bytes_by_device.items()}
        self._read_at = started


def _share(held: Mapping[int, Mapping[int, int]], members: frozenset[int]) -> dict[int, int]:
    """Return the bytes that *members* hold on each device; one that knows none of them is left out."""
    return {
        index: sum(bytes_ for pid, bytes_ in by_pid.items() if pid in members)
        for index, by_pid in held.items()
        if not members.isdisjoint(by_pid)
    }
