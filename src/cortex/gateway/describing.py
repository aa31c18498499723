"""What operators are told of a node, as plain values: bytes, seconds and tokens a second are named as such."""

from __future__ import annotations

from typing import Any

from cortex.fleet.doors import Doors
from cortex.fleet.view import NodeView, ReplicaView
from cortex.wire.node_api import DeviceHealth, Health


def describe_node(node: NodeView, now: float, health: Health | None, doors: Doors) -> dict[str, Any]:
    """Return *node* with its devices and replicas: *health* has its last readings, *doors* what we know of its pace."""
    read = {reading.index: reading for reading in health.devices} if health is not None else {}
    return {
        "name": node.name,
        "endpoint": node.endpoint,
        "healthy": node.healthy,
        "drained": node.drained,
        "leaving": node.leaving,
        "reason": node.reason,
        "version": node.version,
        "boot_id": node.boot_id,
        "seen_seconds_ago": round(max(0.0, now - node.seen_at), 3) if node.boot_id else None,
        "engines": list(node.engines),
        "devices": [
            {
                "index": room.index,
                "name": room.name,
                "kind": room.kind,
                "total_bytes": room.total_bytes,
                "free_bytes": room.free_bytes,
                **_reading(read.get(room.index)),
            }
            for room in node.rooms
        ],
        "replicas": [_replica(replica, doors) for replica in node.replicas],
    }


def _reading(reading: DeviceHealth | None) -> dict[str, float | None]:
    if reading is None:
        return {"utilization_percent": None, "temperature_celsius": None}
    return {"utilization_percent": reading.utilization_pct, "temperature_celsius": reading.temp_c}


def _replica(replica: ReplicaView, doors: Doors) -> dict[str, Any]:
    pace = doors.paces.get(replica.spot)
    return {
        "model": replica.model,
        "state": replica.state,
        "in_flight": max(replica.in_flight, doors.flights.get(replica.spot, 0)),
        "queued": replica.queued,
        "slots": replica.slots,
        "tokens_per_second": round(pace.decode, 1) if pace is not None and pace.decode_samples else None,
        "bytes_by_device": dict(replica.bytes_by_device),
        "load_seconds": replica.load_seconds,
        "progress": replica.progress,
        "error": replica.error,
    }
