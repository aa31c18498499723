"""The devices of a node, one module a kind, each behind the `Probe` protocol."""

from __future__ import annotations

from collections.abc import Sequence

from cortex.neuron.config import SimulatedDevice
from cortex.neuron.devices.amd import AmdProbe
from cortex.neuron.devices.host import HostProbe
from cortex.neuron.devices.nvidia import NvidiaProbe
from cortex.neuron.devices.probe import Probe
from cortex.neuron.devices.simulated import SimulatedProbe


def all_probes(simulated: Sequence[SimulatedDevice] = (), cpu_devices: int = 1) -> tuple[Probe, ...]:
    """Return one probe a kind, in the order in which their devices are indexed: GPUs first, the CPU last."""
    return NvidiaProbe(), AmdProbe(), SimulatedProbe(simulated), HostProbe(parts=cpu_devices)
