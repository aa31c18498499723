"""What `/v1/models` and `/health` say: the union of what could be served and what is loaded, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cortex import __version__
from cortex.core.errors import NoFeasibleNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import device_sets
from cortex.fleet.place import no_place, place, why_not
from cortex.fleet.refusals import uncatalogued
from cortex.fleet.situation import Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.gateway.catalogue import Catalogue

_NONE: Mapping[str, str] = MappingProxyType({})
_SERVING = frozenset({"ready", "loading"})


def list_models(
    catalogue: Catalogue, view: FleetView, created: int, situation: Situation | None = None
) -> list[dict[str, Any]]:
    """Return every model, sorted by id, in OpenAI's shape with our own keys beside it."""
    return [
        describe_model(name, catalogue.specs.get(name), view, created, situation)
        for name in sorted({*catalogue.specs, *view.models})
    ]


def describe_model(
    name: str, spec: ModelSpec | None, view: FleetView, created: int, situation: Situation | None = None
) -> dict[str, Any]:
    """Return one model of the list; with a *situation* of the same *view*, `reason` knows of memory too."""
    replicas = view.replicas_of(name)
    refusals = {node.name: _refusal(spec, node, situation) for node in view.nodes} if spec is not None else {}
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
        "replicas": sum(replica.state in _SERVING for replica in replicas),
        "nodes": [replica.node for replica in ready],
        "feasible_on": feasible,
        "locations": [_location(replica) for replica in replicas],
        "context_length": context,
        "max_model_len": context,
        "slots": sum(replica.slots for replica in ready),
        "capabilities": sorted({c for replica in ready for c in replica.capabilities}),
        "engine": spec.engine_name if spec else None,
        "simulated": (spec is not None and spec.engine_name == "simulated") or any(r.simulated for r in replicas),
        "aliases": list(spec.aliases) if spec else [],
        **(_wishes(spec) if spec is not None else {}),
    }
    if not replicas and not feasible:
        entry["reason"] = "; ".join(f"{node}: {reason}" for node, reason in refusals.items()) or "no node is configured"
    elif situation is not None and not entry["replicas"]:
        entry.update(_obstacle(name, spec, situation))
    return entry


def _refusal(spec: ModelSpec, node: NodeView, situation: Situation | None) -> str | None:
    """Return why *spec* could not be loaded on *node* even if all of it were free, or None if it could be."""
    reason = why_not(spec, node)
    if reason is not None or situation is None:
        return reason
    try:
        device_sets(spec, node, situation.need(spec.id, node.name))
    except NoFeasibleNode as error:
        return error.message
    return None


def _wishes(spec: ModelSpec) -> dict[str, Any]:
    """Return what the catalogue says of how long a model is to stay, and where it may not be displaced."""
    return {
        "priority": spec.priority,
        "pinned": spec.pinned,
        "pinned_on": list(spec.pinned_on),
        "ttl_seconds": spec.ttl_seconds,
        "min_resident": spec.min_resident,
        "max_replicas": spec.max_replicas,
    }


def _obstacle(name: str, spec: ModelSpec | None, situation: Situation) -> dict[str, str]:
    """Return the `reason` why a model without a replica to serve it cannot be loaded now, if there is one."""
    if spec is None:
        return {"reason": uncatalogued(name, situation).message}
    placement = place(spec, situation, may_drain=True)
    return {} if placement.plan is not None else {"reason": no_place(spec, situation, placement).message}


def health(view: FleetView, *, draining: bool = False, refused_edits: Mapping[str, str] = _NONE) -> dict[str, Any]:
    """Return `/health`: ok while at least one node answers, draining once the gateway is on its way out."""
    healthy = sum(node.healthy for node in view.nodes)
    return {
        "status": "draining" if draining else "ok" if healthy else "degraded",
        "version": __version__,
        "nodes": {"healthy": healthy, "total": len(view.nodes)},
        **({"refused_edits": dict(refused_edits)} if refused_edits else {}),
        "details": [
            {
                "name": node.name,
                "endpoint": node.endpoint,
                "healthy": node.healthy,
                "drained": node.drained,
                "leaving": node.leaving,
                "reason": node.reason,
                "version": node.version,
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
