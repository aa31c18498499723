"""Decide what to do with a request: serve it, load for it, wait for a load, or refuse it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from cortex.core.errors import CortexError, ModelNotFound, ModelNotReady, NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.place import Candidate, place, require_candidates
from cortex.fleet.view import FleetView, ReplicaView


@dataclass(frozen=True, slots=True)
class Serve:
    """Send it to this replica."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Load:
    """Load the model on the first of these nodes that takes it, then route again."""

    spec: ModelSpec
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """A replica is coming up on this node; route again when it is there."""

    model: str
    node: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing can serve it; the error says why and when to come back."""

    error: CortexError


Decision = Serve | Load | Wait | Refuse


def route(
    model: str,
    spec: ModelSpec | None,
    view: FleetView,
    *,
    busy: Mapping[tuple[str, str], int],
    avoid: Set[str] = frozenset(),
) -> Decision:
    """Return what to do with a request for *model*.

    *spec* is its entry in the catalogue, if any; *busy* counts what this gateway has under way per (node, model), which
    is fresher than what nodes report; *avoid* are nodes that failed this very request. Ready replicas come first, the
    least busy for its slots; then one that is loading; then a place to load. Ties go to the lowest node name, so equal
    fleets always route equally.
    """
    replicas = [replica for replica in view.replicas_of(model) if replica.node not in avoid]
    ready = [replica for replica in replicas if replica.state == "ready"]
    if ready:
        return Serve(min(ready, key=lambda r: (busy.get((r.node, model), 0) / max(1, r.slots), r.node)))
    coming = [replica for replica in replicas if replica.state == "loading"]
    if coming:
        return Wait(model, min(replica.node for replica in coming))
    if spec is None:
        return Refuse(_uncatalogued(model, view, avoid))
    placement = place(spec, view)
    candidates = tuple(c for c in placement.candidates if c.node not in avoid)
    if candidates:
        return Load(spec, candidates)
    if placement.candidates:
        return Refuse(NoHealthyNode(f"every node that could serve {model} failed this request just now"))
    try:
        require_candidates(spec, view, placement)
    except (NoHealthyNode, NoFeasibleNode) as error:
        return Refuse(error)
    raise AssertionError("a placement without candidates has a reason")


def _uncatalogued(model: str, view: FleetView, avoid: Set[str]) -> CortexError:
    """Return why *model*, which the catalogue does not have, cannot be served."""
    if view.nodes and not any(node.healthy for node in view.nodes):
        return NoHealthyNode(f"no node answers, and the catalogue does not have {model[:200]!r}")
    states = [
        f"{r.node}: {'failed this request just now' if r.node in avoid else r.error or r.state}"
        for r in view.replicas_of(model)
        if r.state != "unloaded"
    ]
    if states:
        return ModelNotReady(f"no replica of {model} can serve now: {'; '.join(states)}")
    return ModelNotFound(model)
