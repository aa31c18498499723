"""Turn what a node says of itself into a `NodeView`. Pure; what is as it was is shared with the former view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cortex.fleet.devices import Room
from cortex.fleet.view import NodeView, ReplicaView
from cortex.wire.node_api import DeviceHealth, Discovery, Health, LoadProgress, ModelInfo

# Answers take time on their way, which is not the replica's: within this, its last use is the one we know.
USE_TOLERANCE_SECONDS = 0.5


def discovered_node(name: str, endpoint: str, discovery: Discovery) -> NodeView:
    """Return what does not change until the node is started again; nothing is free there yet, and it is not healthy."""
    return NodeView(
        name=name,
        endpoint=endpoint,
        healthy=False,
        boot_id=discovery.boot_id,
        version=discovery.version,
        engines=tuple(discovery.engines),
        engine_devices={engine: tuple(kinds) for engine, kinds in discovery.engine_devices.items()},
        rooms=tuple(Room(d.index, d.kind, d.name, 0, d.ordinal, d.memory_total_bytes) for d in discovery.devices),
    )


def seen_node(discovered: NodeView, health: Health, former: NodeView, now: float) -> NodeView:
    """Return the node that answered *health* at *now*; whether it is drained is as in *former*."""
    draining = health.status == "draining"
    return NodeView(
        name=discovered.name,
        endpoint=discovered.endpoint,
        healthy=not draining,
        reason="is shutting down" if draining else "",
        leaving=draining,
        drained=former.drained,
        boot_id=health.boot_id,
        version=discovered.version,
        engines=discovered.engines,
        engine_devices=discovered.engine_devices,
        rooms=_rooms(discovered.rooms, health.devices, former.rooms),
        replicas=_replicas(discovered.name, health.models, former, now),
        seen_at=now,
    )


def same_but_seen(one: NodeView, other: NodeView) -> bool:
    """Return whether the two differ at most in when the node was seen."""
    return one == (other if one.seen_at == other.seen_at else replace(other, seen_at=one.seen_at))


def _rooms(devices: Sequence[Room], readings: Sequence[DeviceHealth], former: tuple[Room, ...]) -> tuple[Room, ...]:
    free = {reading.index: max(0, reading.memory_free_bytes - reading.memory_reserved_bytes) for reading in readings}
    rooms = tuple(Room(d.index, d.kind, d.name, free.get(d.index, 0), d.ordinal, d.total_bytes) for d in devices)
    return former if rooms == former else rooms


def _replicas(node: str, models: Sequence[ModelInfo], former: NodeView, now: float) -> tuple[ReplicaView, ...]:
    before = former.models
    replicas = tuple([_replica(node, model, before.get(model.id), now) for model in models])
    return former.replicas if replicas == former.replicas else replicas


def _replica(node: str, model: ModelInfo, former: ReplicaView | None, now: float) -> ReplicaView:
    replica = ReplicaView(
        model=model.id,
        node=node,
        state=model.status,
        slots=model.slots,
        in_flight=model.in_flight,
        queued=model.queued,
        context_tokens=model.context_tokens,
        capabilities=tuple(model.capabilities),
        bytes_by_device=_bytes(model),
        is_reserved=model.is_reserved,
        simulated=model.simulated,
        error=model.error,
        load_seconds=model.load_seconds,
        last_used=_last_used(model, former, now),
        ready_since=_ready_since(model, former, now),
        progress=_progress(model.progress),
    )
    return former if former is not None and replica == former else replica


def _last_used(model: ModelInfo, former: ReplicaView | None, now: float) -> float:
    """Return when the replica last had work; now if it has some, or is not ready for any; 0 if its node cannot tell."""
    if model.idle_seconds is None:
        return now if model.in_flight or model.queued or model.status != "ready" else 0.0
    used = now - model.idle_seconds
    if former is not None and abs(used - former.last_used) < USE_TOLERANCE_SECONDS:
        return former.last_used
    return used


def _ready_since(model: ModelInfo, former: ReplicaView | None, now: float) -> float:
    """Return when the replica became ready; 0 if it is not, or its node cannot tell."""
    if model.loaded_seconds_ago is None:
        return 0.0
    since = now - model.loaded_seconds_ago
    is_same = former is not None and abs(since - former.ready_since) < USE_TOLERANCE_SECONDS
    return former.ready_since if former is not None and is_same else since


def _bytes(model: ModelInfo) -> Mapping[int, int]:
    """Return what the replica holds, with what its load has set aside and not taken yet: neither is anybody else's."""
    held, reserved = model.bytes_by_device, model.reserved_by_device
    return {i: held.get(i, 0) + reserved.get(i, 0) for i in {**held, **reserved}} if reserved else held


def _progress(progress: LoadProgress | None) -> str:
    if progress is None:
        return ""
    return progress.stage if progress.percent is None else f"{progress.stage} {progress.percent:.0f}%"
