"""Look at this machine as a node would: its name, devices, free memory, engines."""

from __future__ import annotations

import platform
import re

from cortex.cli.init.files import Machine
from cortex.neuron.config import NeuronConfig
from cortex.neuron.devices import all_probes
from cortex.neuron.devices.probe import DeviceUnreadable, Probe
from cortex.neuron.discovery import discover
from cortex.neuron.installed import installed_engines
from cortex.wire.node_api import DeviceInfo


def this_machine() -> Machine:
    """Return what is found here. Blocks while drivers answer."""
    probes = all_probes()
    engines = installed_engines(NeuronConfig())
    found = discover(boot_id="", engines=engines, probes=lambda _: probes)
    by_kind = {probe.kind: probe for probe in probes}
    free = [_free_bytes(by_kind.get(device.kind), device) for device in found.devices]
    return Machine(node_name(platform.node()), found.devices, free, engines)


def node_name(hostname: str) -> str:
    """Return what to call the node on a machine of this *hostname*."""
    short = re.sub(r"[^A-Za-z0-9_-]+", "-", hostname.partition(".")[0]).strip("-_")
    return short.lower()[:63] or "local"


def _free_bytes(probe: Probe | None, device: DeviceInfo) -> int:
    if probe is None:
        return 0
    try:
        return probe.read(device).free_bytes
    except DeviceUnreadable:
        return 0
