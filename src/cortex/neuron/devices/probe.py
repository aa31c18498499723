"""What each kind of device can be asked: the seam between the hardware and the rest of the neuron."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from cortex.wire.node_api import DeviceInfo


class DeviceUnreadable(Exception):
    """A device does not answer; the message says why. Its last reading is kept."""


@dataclass(frozen=True, slots=True)
class Found:
    """The devices of one kind; the index of each is set later, when all kinds are known."""

    devices: tuple[DeviceInfo, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device says of itself right now; None where it does not tell."""

    used_bytes: int
    free_bytes: int
    utilization_pct: float | None = None
    temp_c: float | None = None


class Probe(Protocol):
    """Finds and reads the devices of one kind. Every method may block: call it in a thread."""

    kind: str

    def find(self) -> Found:
        """Return the devices that are there; what is wrong with one is a warning, never an exception."""
        ...

    def read(self, device: DeviceInfo) -> Reading:
        """Return what *device* says now. Raises DeviceUnreadable."""
        ...

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        """Return the bytes of *device* that each of *pids* holds; one it cannot tell of is absent."""
        ...


def found_device(
    kind: str,
    ordinal: int,
    name: str,
    total_bytes: int,
    *,
    uuid: str | None = None,
    driver: str | None = None,
    compute_capability: str | None = None,
) -> DeviceInfo:
    """Return the device *ordinal* of its *kind*, indexed as if there were no other kind."""
    return DeviceInfo(
        index=ordinal,
        ordinal=ordinal,
        name=name,
        kind=kind,
        memory_total_bytes=total_bytes,
        vram_total_mb=total_bytes >> 20,
        uuid=uuid,
        driver=driver,
        compute_capability=compute_capability,
    )
