from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cortex.neuron.devices.host import HostProbe, process_family
from cortex.neuron.devices.probe import DeviceUnreadable

GIB = 1 << 30
CpuTimes = namedtuple("CpuTimes", "user system idle iowait guest")


class FakeSystem:
    """The part of psutil that the probe uses."""

    def __init__(self, *, total: int = 64 * GIB, available: int = 40 * GIB) -> None:
        self.memory = SimpleNamespace(total=total, available=available)
        self.times = CpuTimes(user=10.0, system=5.0, idle=100.0, iowait=1.0, guest=0.0)
        self.resident = {10: 3 * GIB}

    def virtual_memory(self) -> SimpleNamespace:
        return self.memory

    def cpu_times(self) -> CpuTimes:
        return self.times

    def Process(self, pid: int) -> SimpleNamespace:
        if pid not in self.resident:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=self.resident[pid]))


class FakeSystemWithSensors(FakeSystem):
    def __init__(self, sensors: dict[str, list[SimpleNamespace]]) -> None:
        super().__init__()
        self.sensors = sensors

    def sensors_temperatures(self) -> dict[str, list[SimpleNamespace]]:
        return self.sensors


def limit_memory(root: Path, limit: int, usage: int) -> None:
    group, membership = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    group.mkdir(parents=True)
    membership.parent.mkdir(parents=True)
    membership.write_text("0::/\n")
    (group / "memory.max").write_text(str(limit))
    (group / "memory.current").write_text(str(usage))


def test_the_cpu_has_the_name_of_its_model_and_the_ram(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\nmodel name\t: other\n")

    (device,) = HostProbe(FakeSystem(), tmp_path).find().devices

    assert (device.kind, device.ordinal, device.name) == ("cpu", 0, "AMD Ryzen 9 7950X")
    assert (device.memory_total_bytes, device.vram_total_mb) == (64 * GIB, 64 * 1024)


def test_a_cpu_that_linux_does_not_name_has_a_name_all_the_same(tmp_path: Path) -> None:
    (device,) = HostProbe(FakeSystem(), tmp_path).find().devices

    assert device.name


def test_in_a_container_its_limit_is_the_memory(tmp_path: Path) -> None:
    limit_memory(tmp_path, 8 * GIB, 3 * GIB)
    probe = HostProbe(FakeSystem(), tmp_path)

    (device,) = probe.find().devices
    reading = probe.read(device)

    assert device.memory_total_bytes == 8 * GIB
    assert (reading.used_bytes, reading.free_bytes) == (3 * GIB, 5 * GIB)


def test_a_container_on_a_full_machine_has_what_the_machine_has_left(tmp_path: Path) -> None:
    limit_memory(tmp_path, 8 * GIB, 3 * GIB)
    probe = HostProbe(FakeSystem(available=2 * GIB), tmp_path)

    (device,) = probe.find().devices

    assert probe.read(device).free_bytes == 2 * GIB


def test_free_is_what_programs_can_still_get(tmp_path: Path) -> None:
    probe = HostProbe(FakeSystem(), tmp_path)
    (device,) = probe.find().devices

    reading = probe.read(device)

    assert (reading.used_bytes, reading.free_bytes) == (24 * GIB, 40 * GIB)


def test_utilisation_is_the_busy_share_since_the_last_reading(tmp_path: Path) -> None:
    """Waiting for a disk is not busy; the time of guests is in the user's already."""
    system = FakeSystem()
    probe = HostProbe(system, tmp_path)
    (device,) = probe.find().devices

    first = probe.read(device)
    system.times = CpuTimes(user=12.0, system=6.0, idle=105.0, iowait=3.0, guest=1.0)
    second = probe.read(device)
    again = probe.read(device)

    assert first.utilization_pct is None
    assert second.utilization_pct == 30.0
    assert again.utilization_pct == second.utilization_pct


def test_the_temperature_is_that_of_the_cpu_where_a_sensor_offers_one(tmp_path: Path) -> None:
    sensors = {"nvme": [SimpleNamespace(current=30.0)], "coretemp": [SimpleNamespace(current=55.5)]}
    with_sensors, without = HostProbe(FakeSystemWithSensors(sensors), tmp_path), HostProbe(FakeSystem(), tmp_path)
    (device,) = without.find().devices

    assert with_sensors.read(device).temp_c == 55.5
    assert without.read(device).temp_c is None


def test_memory_that_cannot_be_read_makes_the_device_unreadable(tmp_path: Path) -> None:
    class Broken(FakeSystem):
        def virtual_memory(self) -> SimpleNamespace:
            raise OSError("no /proc")

    (device,) = HostProbe(FakeSystem(), tmp_path).find().devices

    with pytest.raises(DeviceUnreadable, match="no /proc"):
        HostProbe(Broken(), tmp_path).read(device)


def test_a_process_that_ended_is_left_out(tmp_path: Path) -> None:
    probe = HostProbe(FakeSystem(), tmp_path)
    (device,) = probe.find().devices

    assert probe.memory_by_pid(device, {10, 11}) == {10: 3 * GIB}


def test_the_real_machine_can_be_read() -> None:
    probe = HostProbe()
    (device,) = probe.find().devices

    reading = probe.read(device)

    assert reading.used_bytes + reading.free_bytes == device.memory_total_bytes
    assert probe.memory_by_pid(device, {os.getpid()})[os.getpid()] > 0


def test_a_family_is_a_process_with_its_descendants_and_nobody_once_it_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        while_alive = process_family(os.getpid())

    assert {os.getpid(), child.pid} <= while_alive
    assert process_family(child.pid) == frozenset()


def test_a_cpu_that_counts_as_several_devices_is_shared_equally() -> None:
    whole, half = HostProbe(), HostProbe(parts=2)
    (one,), (first, second) = whole.find().devices, half.find().devices

    assert first.memory_total_bytes == second.memory_total_bytes == one.memory_total_bytes // 2
    assert (first.ordinal, second.ordinal) == (0, 1)
    assert first.name.endswith("part 1 of 2")
    assert half.read(first).free_bytes <= first.memory_total_bytes
    assert half.memory_by_pid(first, {os.getpid()})[os.getpid()] < whole.memory_by_pid(one, {os.getpid()})[os.getpid()]
