from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence, Set

import msgspec
from structlog.testing import capture_logs

from cortex import __version__
from cortex.neuron.config import SimulatedDevice
from cortex.neuron.devices import all_probes
from cortex.neuron.devices.probe import Found, Probe, Reading, found_device
from cortex.neuron.devices.simulated import SimulatedProbe
from cortex.neuron.discovery import discover
from cortex.wire.node_api import DeviceInfo, Discovery

GIB = 1 << 30


class FakeProbe:
    """Finds what it was given."""

    def __init__(self, kind: str, found: Found) -> None:
        self.kind = kind
        self._found = found

    def find(self) -> Found:
        return self._found

    def read(self, device: DeviceInfo) -> Reading:
        return Reading(0, device.memory_total_bytes)

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        return {}


def gpu(ordinal: int) -> DeviceInfo:
    return found_device("cuda", ordinal, "RTX 4090", 24 * GIB)


def discovered(*found: tuple[str, Found], simulated: Sequence[SimulatedDevice] = ()) -> Discovery:
    def probes(simulated: Sequence[SimulatedDevice]) -> list[Probe]:
        return [*(FakeProbe(kind, each) for kind, each in found), SimulatedProbe(simulated)]

    return discover(simulated, boot_id="b-1", engines=["llamacpp", "simulated"], probes=probes)


def test_gpus_are_asked_first_and_the_cpu_last() -> None:
    assert [probe.kind for probe in all_probes()] == ["cuda", "rocm", "simulated", "cpu"]


def test_devices_are_indexed_over_all_kinds_and_counted_within_their_own() -> None:
    amd = found_device("rocm", 0, "RX 7900", 24 * GIB)

    found = discovered(
        ("cuda", Found((gpu(0), gpu(1)))),
        ("rocm", Found((amd,))),
        simulated=[SimulatedDevice("A100", 81_920)],
    )

    assert [(device.index, device.kind, device.ordinal) for device in found.devices] == [
        (0, "cuda", 0),
        (1, "cuda", 1),
        (2, "rocm", 0),
        (3, "simulated", 0),
    ]


def test_a_simulated_device_is_labelled_as_one() -> None:
    (device,) = discovered(simulated=[SimulatedDevice("RTX 4090", 24_564)]).devices

    assert (device.name, device.kind) == ("simulated: RTX 4090", "simulated")
    assert (device.memory_total_bytes, device.vram_total_mb) == (24_564 << 20, 24_564)


def test_the_node_says_who_it_is() -> None:
    found = discovered()

    assert (found.hostname, found.os, found.kernel) == (platform.node(), platform.system(), platform.release())
    assert (found.boot_id, found.version) == ("b-1", __version__)
    assert found.engines == found.harnesses == ["llamacpp", "simulated"]


def test_the_driver_is_that_of_the_kind_that_has_one() -> None:
    found = discovered(("cuda", Found((gpu(0),), driver_version="550.54", cuda_version="12.4")), ("rocm", Found()))

    assert (found.driver_version, found.cuda_version) == ("550.54", "12.4")


def test_a_warning_is_listed_and_logged() -> None:
    with capture_logs() as logs:
        found = discovered(("cuda", Found(warnings=("the NVIDIA driver was updated: reboot",))))

    assert found.warnings == ["the NVIDIA driver was updated: reboot"]
    assert [(entry["event"], entry["level"], entry["problem"]) for entry in logs] == [
        ("device_problem", "warning", "the NVIDIA driver was updated: reboot")
    ]


def test_this_machine_can_be_discovered_and_told_of() -> None:
    """Whatever GPUs it has: the CPU is always there, and last."""
    found = discover(boot_id="b-1", engines=["llamacpp"])

    assert found.devices[-1].kind == "cpu"
    assert [device.index for device in found.devices] == list(range(len(found.devices)))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Discovery) == found
