"""Devices that exist in the configuration only: room for simulated replicas, labelled as what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from cortex.neuron.config import SimulatedDevice
from cortex.neuron.devices.probe import Found, Reading, found_device
from cortex.wire.node_api import DeviceInfo


class SimulatedProbe:
    """Lists the devices of the configuration; whatever is declared to be on them is counted by `Readings`."""

    kind = "simulated"

    def __init__(self, devices: Sequence[SimulatedDevice] = ()) -> None:
        self._devices = tuple(devices)

    def find(self) -> Found:
        """Return the configured devices, each with `simulated:` before its name."""
        return Found(
            tuple(
                found_device(self.kind, ordinal, f"simulated: {device.name}", device.memory_mb << 20)
                for ordinal, device in enumerate(self._devices)
            )
        )

    def read(self, device: DeviceInfo) -> Reading:
        """Return an empty device: nothing real is ever on it."""
        return Reading(used_bytes=0, free_bytes=device.memory_total_bytes)

    def memory_by_pid(self, device: DeviceInfo, pids: Set[int]) -> Mapping[int, int]:
        """Return nothing: no process holds memory that does not exist."""
        return {}
