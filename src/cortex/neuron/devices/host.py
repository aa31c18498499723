"""The CPU with its RAM, and the processes on it, through psutil."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from cortex.neuron.devices.cgroup import memory_room
from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading, found_device
from cortex.wire.node_api import DeviceInfo

CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
MEANINGFUL_CPU_SECONDS = 0.1


class HostProbe:
    """Reads the CPU that every node has, as one device or as several with equal parts of the RAM."""

    kind = "cpu"

    def __init__(self, system: Any = psutil, root: Path = Path("/"), parts: int = 1) -> None:
        """*system* is the module psutil or a stand-in; *root* is where /proc and /sys are."""
        self._parts = parts
        self._system = system
        self._root = root
        self._busy_seconds, self._all_seconds = self._cpu_seconds()
        self._utilization_pct: float | None = None

    def find(self) -> Found:
        """Return the CPU; its memory is the RAM, or the limit of the container if that is lower."""
        total = int(self._system.virtual_memory().total)
        room = memory_room(self._root)
        total = total if room is None else min(total, room.limit_bytes)
        name, parts = _cpu_name(self._root / "proc/cpuinfo"), self._parts
        names = [name] if parts == 1 else [f"{name}, part {part} of {parts}" for part in range(1, parts + 1)]
        return Found(tuple(found_device(self.kind, at, each, total // parts) for at, each in enumerate(names)))

    def read(self, device: DeviceInfo) -> Reading:
        """Return the memory that programs can still get, and how busy the CPU was since the last reading.

        What is free is free for all parts: each is told its share of it.
        """
        try:
            available = int(self._system.virtual_memory().available)
        except (OSError, psutil.Error) as error:
            raise DeviceUnreadable(str(error)) from None
        room = memory_room(self._root)
        available = available if room is None else min(available, room.free_bytes)
        free = min(available // self._parts, device.memory_total_bytes)
        return Reading(device.memory_total_bytes - free, free, self._utilization(), self._temperature())

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        """Return the resident bytes of each of *pids*; mapped weights count in every process that maps them.

        Of several parts each counts for its share: which of them a page lies on is not known.
        """
        resident = {}
        for pid in pids:
            try:
                resident[pid] = int(self._system.Process(pid).memory_info().rss) // self._parts
            except psutil.Error:
                continue  # it ended since it was listed
        return resident

    def _utilization(self) -> float | None:
        # psutil.cpu_percent counts since the last call of the same thread, and readings come from any.
        busy, total = self._cpu_seconds()
        elapsed = total - self._all_seconds
        if elapsed >= MEANINGFUL_CPU_SECONDS:
            share = (busy - self._busy_seconds) / elapsed
            self._utilization_pct = round(100 * min(1.0, max(0.0, share)), 1)
            self._busy_seconds, self._all_seconds = busy, total
        return self._utilization_pct

    def _cpu_seconds(self) -> tuple[float, float]:
        """Return the busy and all seconds of all cores since the machine started."""
        times = self._system.cpu_times()._asdict()
        # Linux counts the time of guests in `user` and `nice` too.
        total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
        return total - times["idle"] - times.get("iowait", 0.0), total

    def _temperature(self) -> float | None:
        """Return the temperature of the CPU in °C, None where no sensor of a known name offers one."""
        if not hasattr(self._system, "sensors_temperatures"):
            return None
        sensors = self._system.sensors_temperatures()
        return next((float(sensors[name][0].current) for name in CPU_SENSORS if sensors.get(name)), None)


def process_family(pid: int) -> frozenset[int]:
    """Return *pid* and all its descendants; empty if it has ended."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return frozenset()
    return frozenset({pid, *(child.pid for child in children)})


def _cpu_name(cpuinfo: Path) -> str:
    """Return the model name of the first CPU, or what the platform calls it where Linux names none."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(filter(None, named), "") or platform.processor() or platform.machine() or "CPU"
