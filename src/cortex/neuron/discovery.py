"""Say what this node is: its devices in their order, its engines, its driver, and what is wrong with any of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

import msgspec

from cortex import __version__
from cortex.core.logging import get_logger
from cortex.neuron.config import SimulatedDevice
from cortex.neuron.devices import all_probes
from cortex.neuron.devices.probe import Found, Probe
from cortex.wire.node_api import DeviceInfo, Discovery

log = get_logger(__name__)


def discover(
    simulated: Sequence[SimulatedDevice] = (),
    *,
    boot_id: str,
    engines: Sequence[str],
    probes: Callable[[Sequence[SimulatedDevice]], Sequence[Probe]] = all_probes,
) -> Discovery:
    """Return what `GET /discovery` says. Blocks: call it once, at the start, in a thread.

    *boot_id* is the caller's, new with each neuron process. Devices are indexed from 0 in the order of the probes.
    """
    found = [probe.find() for probe in probes(simulated)]
    warnings = [warning for each in found for warning in each.warnings]
    for warning in warnings:
        log.warning("device_problem", problem=warning)
    return Discovery(
        hostname=platform.node(),
        os=platform.system(),
        kernel=platform.release(),
        boot_id=boot_id,
        version=__version__,
        devices=_indexed(found),
        engines=list(engines),
        harnesses=list(engines),
        driver_version=next((each.driver_version for each in found if each.driver_version), None),
        cuda_version=next((each.cuda_version for each in found if each.cuda_version), None),
        warnings=warnings,
    )


def _indexed(found: Sequence[Found]) -> list[DeviceInfo]:
    devices = (device for each in found for device in each.devices)
    return [msgspec.structs.replace(device, index=index) for index, device in enumerate(devices)]
