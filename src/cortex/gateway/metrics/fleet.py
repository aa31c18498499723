"""Show the fleet as it is when Prometheus asks: nothing is copied, so nothing lingers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric

from cortex.core.metrics import Labels, gauge
from cortex.fleet.doors import Doors
from cortex.fleet.view import FleetView
from cortex.gateway.metrics import families as of
from cortex.wire.node_api import DeviceHealth, Health, ModelInfo, estimate_error


@dataclass(frozen=True, slots=True)
class Scene:
    """The fleet at one moment: as decisions see it, what goes on at the doors, and what nodes said in full."""

    now: float
    view: FleetView
    doors: Doors
    readings: Mapping[str, Health]


def fleet_gauges(scene: Scene) -> Iterable[Metric]:
    """Return everything that is as it is now."""
    return [*_nodes(scene), *_devices(scene), *_replicas(scene), *_doors(scene)]


def _nodes(scene: Scene) -> list[Metric]:
    nodes = scene.view.nodes
    return [
        gauge(of.NODE_HEALTHY, [((node.name,), float(node.healthy)) for node in nodes]),
        gauge(of.NODE_DRAINED, [((node.name,), float(node.drained)) for node in nodes]),
        gauge(of.POLL_AGE, [((n.name,), max(0.0, scene.now - n.seen_at)) for n in nodes if n.boot_id]),
    ]


def _devices(scene: Scene) -> list[Metric]:
    rooms = [((node.name, str(room.index)), room) for node in scene.view.nodes for room in node.rooms]
    gpus = {labels for labels, room in rooms if room.kind != "cpu"}
    read = list(_read(scene))
    return [
        gauge(of.MEMORY_TOTAL, [(labels, room.total_bytes) for labels, room in rooms]),
        gauge(of.MEMORY_FREE, [(labels, room.free_bytes) for labels, room in rooms]),
        gauge(of.MEMORY_USED, [(labels, device.memory_used_bytes) for labels, device, _ in read]),
        gauge(of.MEMORY_OTHER, [(labels, max(0, d.memory_used_bytes - ours)) for labels, d, ours in read]),
        gauge(of.VRAM_USED, [(labels, d.memory_used_bytes >> 20) for labels, d, _ in read if labels in gpus]),
        gauge(of.VRAM_FREE, [(labels, d.memory_free_bytes >> 20) for labels, d, _ in read if labels in gpus]),
        gauge(of.UTILIZATION, [(labels, device.utilization_pct) for labels, device, _ in read]),
        gauge(of.TEMPERATURE, [(labels, device.temp_c) for labels, device, _ in read]),
    ]


def _read(scene: Scene) -> Iterator[tuple[Labels, DeviceHealth, int]]:
    """Yield each device's last reading, with the bytes that the node's own engines hold there."""
    for name, health in scene.readings.items():
        ours: Counter[int] = Counter()
        for model in health.models:
            ours.update(model.bytes_by_device)
        for device in health.devices:
            yield (name, str(device.index)), device, ours[device.index]


def _replicas(scene: Scene) -> list[Metric]:
    replicas = [replica for node in scene.view.nodes for replica in node.replicas]
    models = [(name, model) for name, health in scene.readings.items() for model in health.models]
    return [
        gauge(of.REPLICAS, [((r.node, r.model, r.state), 1.0) for r in replicas]),
        gauge(of.IN_FLIGHT, [(r.spot, r.in_flight) for r in replicas]),
        gauge(of.MAX_IN_FLIGHT, [(r.spot, r.slots) for r in replicas]),
        gauge(of.QUEUE_DEPTH, [(r.spot, r.queued) for r in replicas]),
        gauge(of.ESTIMATE_ERROR, [(_estimated(node, model), estimate_error(model)) for node, model in models]),
    ]


def _estimated(node: str, model: ModelInfo) -> Labels:
    return node, model.id, model.estimate_basis


def _doors(scene: Scene) -> list[Metric]:
    doors, there = scene.doors, {r.spot for node in scene.view.nodes for r in node.replicas}
    paces = [(spot, pace) for spot, pace in doors.paces.items() if spot in there and pace.samples]
    return [
        gauge(of.REQUESTS_IN_FLIGHT, [(spot, count) for spot, count in doors.flights.items()]),
        gauge(of.WAITING, [((model,), len(doors.waiting(model))) for model in doors.waiting_since()]),
        gauge(of.PREFILL_SPEED, [(spot, pace.prefill) for spot, pace in paces]),
        gauge(of.DECODE_SPEED, [(spot, pace.decode) for spot, pace in paces]),
    ]
