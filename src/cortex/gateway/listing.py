"""What `/v1/models` and `/health` say: the union of what could be served and what is loaded, each with its reason."""

from __future__ import annotations

from typing import Any

from cortex.core.model_spec import ModelSpec
from cortex.fleet.place import why_not
from cortex.fleet.view import FleetView, ReplicaView
from cortex.gateway.catalogue import Catalogue


def list_models(catalogue: Catalogue, view: FleetView, created: int) -> list[dict[str, Any]]:
    """Return every model, sorted by id, in OpenAI's shape with our own keys beside it."""
    return [
        describe_model(name, catalogue.specs.get(name), view, created)
        for name in sorted({*catalogue.specs, *view.models})
    ]


def describe_model(name: str, spec: ModelSpec | None, view: FleetView, created: int) -> dict[str, Any]:
    """Return one model of the list."""
    replicas = view.replicas_of(name)
    refusals = {node.name: why_not(spec, node) for node in view.nodes} if spec is not None else {}
    feasible = sorted(node for node, reason in refusals.items() if reason is None)
    ready = [replica for replica in replicas if replica.state == "ready"]
    context = min((r.context_tokens for r in ready if r.context_tokens), default=spec.context if spec else None)
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "cortex",
        "state": _state(replicas, feasible),
        "loaded": bool(ready),
        "feasible_on": feasible,
        "locations": [_location(replica) for replica in replicas],
        "context_length": context,
        "max_model_len": context,
        "capabilities": sorted({c for replica in ready for c in replica.capabilities}),
        "engine": spec.engine_name if spec else None,
        "simulated": (spec is not None and spec.engine_name == "simulated") or any(r.simulated for r in replicas),
        "aliases": list(spec.aliases) if spec else [],
    }
    if not replicas and not feasible:
        entry["reason"] = "; ".join(f"{node}: {reason}" for node, reason in refusals.items()) or "no node is configured"
    return entry


def health(view: FleetView, *, draining: bool = False) -> dict[str, Any]:
    """Return `/health`: ok while at least one node answers, draining once the gateway is on its way out."""
    healthy = sum(node.healthy for node in view.nodes)
    return {
        "status": "draining" if draining else "ok" if healthy else "degraded",
        "nodes": {"healthy": healthy, "total": len(view.nodes)},
        "details": [
            {
                "name": node.name,
                "endpoint": node.endpoint,
                "healthy": node.healthy,
                "reason": node.reason,
                "devices": [{"name": r.name, "kind": r.kind, "free_bytes": r.free_bytes} for r in node.rooms],
                "models": [{"id": r.model, "status": r.state, "in_flight": r.in_flight} for r in node.replicas],
            }
            for node in view.nodes
        ],
    }


def _state(replicas: tuple[ReplicaView, ...], feasible: list[str]) -> str:
    states = {replica.state for replica in replicas}
    for state in ("ready", "loading", "draining", "failed"):
        if state in states:
            return state
    return "unloaded" if feasible else "unavailable"


def _location(replica: ReplicaView) -> dict[str, Any]:
    memory = replica.memory_bytes
    return {
        "node": replica.node,
        "status": "loaded" if replica.state == "ready" else replica.state,
        "vram_estimate_mb": None if memory is None else memory >> 20,
        "error": replica.error,
    }
