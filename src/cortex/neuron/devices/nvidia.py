"""NVIDIA GPUs, through NVML. Not run on real hardware in this project's tests: they drive a fake NVML.

NVML counts GPUs in the order of the PCI bus, CUDA by default the fastest first: an engine that selects by `ordinal`
must set `CUDA_DEVICE_ORDER=PCI_BUS_ID`, or select by `uuid`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from cortex.core.logging import get_logger
from cortex.neuron.devices.probe import DeviceUnreadable, Found, Reading, found_device
from cortex.wire.node_api import DeviceInfo

T = TypeVar("T")

NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"

log = get_logger(__name__)


class NvidiaProbe:
    """Asks NVML, which is started at the first question and stays so as long as the process lives."""

    kind = "cuda"

    def __init__(self, nvml: Any = pynvml, root: Path = Path("/")) -> None:
        """*nvml* is the module pynvml or a stand-in; *root* is where /proc and /sys are."""
        self._nvml = nvml
        self._root = root
        self._started = False

    def find(self) -> Found:
        """Return the GPUs that NVML lists; a warning if it fails although a GPU is evidently there."""
        try:
            self._start()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            return Found(warnings=self._why_none(error))
        driver = self._ask(self._nvml.nvmlSystemGetDriverVersion)
        devices, warnings = [], []
        for ordinal in range(count):
            try:
                devices.append(self._describe(ordinal, driver))
            except self._nvml.NVMLError as error:
                warnings.append(f"NVIDIA GPU {ordinal} is left out, NVML says: {error}; see nvidia-smi and dmesg")
        return Found(tuple(devices), driver, self._cuda_version(), tuple(warnings))

    def read(self, device: DeviceInfo) -> Reading:
        """Return memory, utilisation and temperature of *device*. Raises DeviceUnreadable, as when it is gone."""
        nvml = self._nvml
        try:
            self._start()
            handle = self._handle(device)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            raise DeviceUnreadable(f"NVML says: {error}") from None
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return Reading(
            used_bytes=int(memory.used),
            free_bytes=int(memory.free),
            utilization_pct=None if rates is None else float(rates.gpu),
            temp_c=None if temperature is None else float(temperature),
        )

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        """Return what *pids* hold on *device*; empty where NVML does not tell, or tells of pids outside a container."""
        nvml = self._nvml
        try:
            self._start()
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(self._handle(device))
        except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
            return {}
        return {p.pid: int(p.usedGpuMemory) for p in processes if p.pid in pids and p.usedGpuMemory is not None}

    def _start(self) -> None:
        if not self._started:
            self._nvml.nvmlInit()
            self._started = True

    def _handle(self, device: DeviceInfo) -> Any:
        # A GPU that is lost makes the others count anew: the uuid still names the right one.
        if device.uuid is not None:
            return self._nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        return self._nvml.nvmlDeviceGetHandleByIndex(device.ordinal)

    def _ask(self, question: Callable[..., T], *about: Any) -> T | None:
        """Return the answer to a *question* that not every GPU and driver can answer, else None."""
        try:
            return question(*about)
        except self._nvml.NVMLError:
            return None

    def _describe(self, ordinal: int, driver: str | None) -> DeviceInfo:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(ordinal)
        capability = self._ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return found_device(
            self.kind,
            ordinal,
            nvml.nvmlDeviceGetName(handle),
            int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            uuid=self._ask(nvml.nvmlDeviceGetUUID, handle),
            driver=driver,
            compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        )

    def _cuda_version(self) -> str | None:
        """Return the newest CUDA the driver supports: NVML's 12040 is 12.4."""
        version = self._ask(self._nvml.nvmlSystemGetCudaDriverVersion)
        return None if version is None else f"{version // 1000}.{version % 1000 // 10}"

    def _why_none(self, error: Any) -> tuple[str, ...]:
        """Return a warning that says what to do about *error*; none if there is no NVIDIA driver and no GPU."""
        nvml = self._nvml
        absent = error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if absent and not self._gpu_is_evident():
            log.debug("no_nvidia_driver", reason=str(error))
            return ()
        advice = {
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated: reboot",
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver, or give the container its GPUs",
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: "its kernel module is not loaded: see dmesg, or reinstall the driver",
            nvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidia*: change its groups or the permissions",
        }.get(error.value, "see nvidia-smi and dmesg")
        return (f"no NVIDIA GPU can be used: {advice} (NVML says: {error})",)

    def _gpu_is_evident(self) -> bool:
        """Whether the kernel knows of an NVIDIA GPU, however little NVML does."""
        if (self._root / "proc/driver/nvidia/version").exists():
            return True
        return any(
            _text(device / "vendor") == NVIDIA_VENDOR and _text(device / "class").startswith(DISPLAY_CLASS)
            for device in self._root.glob("sys/bus/pci/devices/*")
        )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
