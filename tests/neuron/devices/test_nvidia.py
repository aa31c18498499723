from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pynvml
import pytest
from structlog.testing import capture_logs

from cortex.neuron.devices.nvidia import NvidiaProbe
from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading

T = TypeVar("T")
GIB = 1 << 30


@dataclass
class Gpu:
    """A GPU of the fake NVML; `broken` maps a question to the code it fails with."""

    name: str = "NVIDIA GeForce RTX 4090"
    uuid: str = "GPU-0"
    total: int = 24 * GIB
    used: int = 1 * GIB
    capability: tuple[int, int] = (8, 9)
    utilization: int = 40
    temperature: int = 61
    processes: Mapping[int, int | None] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """The part of pynvml that the probe uses, over GPUs in memory; handles are the GPUs themselves."""

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    NVML_ERROR_NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION

    def __init__(self, gpus: Sequence[Gpu] = (), *, init_error: int | None = None) -> None:
        self.gpus = list(gpus)
        self.init_error = init_error
        self.starts = 0

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.starts += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54.14"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12040

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return self._answer(gpu, "name", gpu.name)

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return self._answer(gpu, "uuid", gpu.uuid)

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        memory = SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)
        return self._answer(gpu, "memory", memory)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Gpu) -> tuple[int, int]:
        return self._answer(gpu, "capability", gpu.capability)

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> SimpleNamespace:
        return self._answer(gpu, "utilization", SimpleNamespace(gpu=gpu.utilization))

    def nvmlDeviceGetTemperature(self, gpu: Gpu, sensor: int) -> int:
        return self._answer(gpu, "temperature", gpu.temperature)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[SimpleNamespace]:
        processes = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes.items()]
        return self._answer(gpu, "processes", processes)

    @staticmethod
    def _answer(gpu: Gpu, question: str, answer: T) -> T:
        if question in gpu.broken:
            raise pynvml.NVMLError(gpu.broken[question])
        return answer


def test_the_fake_has_no_name_that_pynvml_lacks() -> None:
    names = {name for name in vars(FakeNvml) if not name.startswith("_")}

    assert names <= set(dir(pynvml))


def test_the_real_library_answers_with_or_without_a_gpu() -> None:
    assert isinstance(NvidiaProbe().find(), Found)


def test_a_gpu_is_described_by_what_nvml_says() -> None:
    found = NvidiaProbe(FakeNvml([Gpu(), Gpu(name="NVIDIA GeForce RTX 3060", uuid="GPU-1", total=12 * GIB)])).find()

    first, second = found.devices
    assert (first.kind, first.ordinal, first.name) == ("cuda", 0, "NVIDIA GeForce RTX 4090")
    assert (first.memory_total_bytes, first.vram_total_mb) == (24 * GIB, 24 * 1024)
    assert (first.uuid, first.driver, first.compute_capability) == ("GPU-0", "550.54.14", "8.9")
    assert (second.ordinal, second.uuid) == (1, "GPU-1")
    assert (found.driver_version, found.cuda_version, found.warnings) == ("550.54.14", "12.4", ())


def test_a_gpu_that_cannot_be_described_costs_only_itself() -> None:
    """The other keeps the ordinal that CUDA knows it by."""
    lost = Gpu(broken={"memory": pynvml.NVML_ERROR_GPU_IS_LOST})

    found = NvidiaProbe(FakeNvml([lost, Gpu(uuid="GPU-1")])).find()

    assert [(device.ordinal, device.uuid) for device in found.devices] == [(1, "GPU-1")]
    assert "NVIDIA GPU 0 is left out" in found.warnings[0]
    assert "GPU is lost" in found.warnings[0]


def test_what_an_old_gpu_does_not_tell_is_none() -> None:
    unsupported = pynvml.NVML_ERROR_NOT_SUPPORTED
    gpu = Gpu(broken={"capability": unsupported, "uuid": unsupported, "utilization": unsupported})
    probe = NvidiaProbe(FakeNvml([gpu]))

    (device,) = probe.find().devices
    reading = probe.read(device)

    assert (device.uuid, device.compute_capability) == (None, None)
    assert (reading.utilization_pct, reading.temp_c) == (None, 61.0)


def test_an_updated_driver_is_a_warning_to_reboot(tmp_path: Path) -> None:
    nvml = FakeNvml(init_error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    found = NvidiaProbe(nvml, tmp_path).find()

    assert found.devices == ()
    assert "the NVIDIA driver was updated: reboot" in found.warnings[0]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_an_nvidia_driver_has_no_devices_and_no_warning(code: int, tmp_path: Path) -> None:
    with capture_logs() as logs:
        found = NvidiaProbe(FakeNvml(init_error=code), tmp_path).find()

    assert found == Found()
    assert [entry for entry in logs if entry.get("level") == "warning"] == []


def test_a_loaded_kernel_driver_without_nvml_is_a_warning(tmp_path: Path) -> None:
    """A container that was not given the library of its host."""
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.touch()

    found = NvidiaProbe(FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), tmp_path).find()

    assert "install the NVIDIA driver, or give the container its GPUs" in found.warnings[0]


@pytest.mark.parametrize(
    ("vendor", "pci_class", "warned"),
    [("0x10de", "0x030000", True), ("0x10de", "0x040300", False), ("0x8086", "0x030000", False)],
    ids=["nvidia gpu", "nvidia audio", "intel gpu"],
)
def test_a_gpu_on_the_bus_without_its_driver_is_a_warning(
    vendor: str, pci_class: str, warned: bool, tmp_path: Path
) -> None:
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text(f"{vendor}\n")
    (card / "class").write_text(f"{pci_class}\n")

    found = NvidiaProbe(FakeNvml(init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), tmp_path).find()

    assert bool(found.warnings) is warned


@pytest.mark.parametrize(
    ("code", "advice"),
    [(pynvml.NVML_ERROR_NO_PERMISSION, "may not open /dev/nvidia*"), (pynvml.NVML_ERROR_UNKNOWN, "see nvidia-smi")],
)
def test_any_other_failure_is_a_warning_with_advice(code: int, advice: str, tmp_path: Path) -> None:
    found = NvidiaProbe(FakeNvml(init_error=code), tmp_path).find()

    assert advice in found.warnings[0]


def test_a_reading_has_memory_utilisation_and_temperature() -> None:
    probe = NvidiaProbe(FakeNvml([Gpu()]))
    (device,) = probe.find().devices

    reading = probe.read(device)

    assert reading == Reading(1 * GIB, 23 * GIB, utilization_pct=40.0, temp_c=61.0)


def test_a_probe_that_found_nothing_itself_can_read() -> None:
    """NVML is started once, by whichever question comes first."""
    (device,) = NvidiaProbe(FakeNvml([Gpu()])).find().devices
    nvml = FakeNvml([Gpu()])
    probe = NvidiaProbe(nvml)

    probe.read(device)
    probe.read(device)

    assert nvml.starts == 1


def test_a_gpu_that_fell_off_the_bus_is_unreadable_and_the_next_one_is_not_taken_for_it() -> None:
    nvml = FakeNvml([Gpu(), Gpu(uuid="GPU-1", used=5 * GIB)])
    probe = NvidiaProbe(nvml)
    first, second = probe.find().devices
    del nvml.gpus[0]

    with pytest.raises(DeviceUnreadable, match="Not Found"):
        probe.read(first)

    assert probe.read(second).used_bytes == 5 * GIB


def test_memory_is_told_for_the_processes_that_were_asked_for() -> None:
    """A driver that does not tell of a process says None, which is not zero."""
    probe = NvidiaProbe(FakeNvml([Gpu(processes={10: 3 * GIB, 11: None, 12: 1 * GIB})]))
    (device,) = probe.find().devices

    assert probe.memory_by_pid(device, {10, 11}) == {10: 3 * GIB}


def test_a_driver_that_tells_of_no_process_is_no_error() -> None:
    probe = NvidiaProbe(FakeNvml([Gpu(broken={"processes": pynvml.NVML_ERROR_NO_PERMISSION})]))
    (device,) = probe.find().devices

    assert probe.memory_by_pid(device, {10}) == {}
