"""What an operator's order would come to, worked out before it is given: a load, an unload, a drain. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cortex.core.errors import Conflict, RouteNotFound
from cortex.core.model_spec import ModelSpec
from cortex.fleet.place import consider, no_place, place
from cortex.fleet.plan import Plan
from cortex.fleet.situation import Commitment, Situation
from cortex.fleet.view import NodeView, ReplicaView


@dataclass(frozen=True, slots=True)
class Unloading:
    """What goes with a replica: its requests are answered first. `cautions` are for whoever orders it."""

    replica: ReplicaView
    under_way: int
    ready_elsewhere: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one replica of a node that is drained: `to` is where its model is or goes, if anywhere now."""

    model: str
    under_way: int
    to: str | None
    plan: Plan | None
    reason: str


def load_plan(spec: ModelSpec, node: str | None, situation: Situation) -> Plan:
    """Return the plan by which *spec* gets one more replica, on *node* if one is named; busy ones may be drained.

    Raises RouteNotFound when there is no such node, Conflict when there is no place for it now.
    """
    if node is None:
        placement = place(spec, situation, may_drain=True)
        if placement.plan is None:
            raise Conflict(no_place(spec, situation, placement).message, code="no_place")
        return placement.plan
    candidate = consider(spec, _node(node, situation), situation, may_drain=True)
    if candidate.plan is None:
        why = "; ".join(candidate.obstacles) or candidate.reason
        raise Conflict(f"{spec.id} cannot be loaded on {node} now: {why}", code="no_place")
    return candidate.plan


def unloading(node: str, model: str, situation: Situation) -> Unloading:
    """Return what unloading *model* on *node* means. Raises RouteNotFound, or Conflict while it comes or goes."""
    replica = _node(node, situation).models.get(model)
    if replica is None or replica.state == "unloaded":
        raise RouteNotFound(f"{node} has no replica of {model[:200]}", code="replica_not_found")
    if replica.spot in situation.leaving or replica.state == "draining":
        raise Conflict(f"{model} is on its way out of {node} already")
    if replica.state == "loading":
        raise Conflict(f"{model} is being loaded on {node}; it can be unloaded once it is there")
    others = tuple(other.node for other in situation.ready(model) if other.node != node)
    return Unloading(replica, situation.busy(replica.spot), others, tuple(_cautions(replica, others, situation)))


def _cautions(replica: ReplicaView, others: tuple[str, ...], situation: Situation) -> list[str]:
    spec, said = situation.catalogue.get(replica.model), []
    if spec is None:
        said.append("it is not in the catalogue: nothing will load it again")
    elif spec.is_pinned_on(replica.node):
        said.append("it is pinned: nothing else would have made it go")
    if spec is not None and len(others) < spec.min_resident:
        said.append(f"min_resident = {spec.min_resident}: it will be loaded again at once")
    if spec is not None and not others:
        seconds = situation.reload_seconds(replica.spot)
        said.append(f"no other replica is ready: the next request waits for a load of about {seconds:.0f} s")
    return said


def drain_moves(node: str, situation: Situation) -> tuple[Move, ...]:
    """Return what becomes of each replica of *node* when it is drained, one after another. Raises RouteNotFound."""
    view = _node(node, situation)
    after = replace(situation, view=situation.view.with_node(replace(view, drained=True)))
    moves = []
    for replica in view.replicas:
        if replica.state not in ("ready", "loading"):
            continue
        move = _move(replica, after)
        moves.append(move)
        if move.plan is not None:
            after = replace(after, commitments=_with(after.commitments, move.plan))
    return tuple(moves)


def _move(replica: ReplicaView, after: Situation) -> Move:
    model, under_way = replica.model, after.busy(replica.spot)
    others = [other for other in after.ready(model) if other.node != replica.node]
    if others and not after.view.node(others[0].node).drained:
        return Move(model, under_way, others[0].node, None, "is ready there already")
    spec = after.catalogue.get(model)
    if spec is None:
        return Move(model, under_way, None, None, "is not in the catalogue, so it stays and serves on")
    placement = place(spec, after)
    if placement.plan is None:
        why = no_place(spec, after, placement).message
        return Move(model, under_way, None, None, f"stays and serves on until there is a place: {why}")
    return Move(model, under_way, placement.plan.node, placement.plan, placement.plan.reason)


def _with(commitments: Mapping[str, Any], plan: Plan) -> Mapping[str, tuple[Commitment, ...]]:
    more = (*commitments.get(plan.node, ()), Commitment(plan.model, plan.bytes_by_device))
    return {**commitments, plan.node: more}


def _node(name: str, situation: Situation) -> NodeView:
    node = situation.view.by_name.get(name)
    if node is None:
        known = ", ".join(situation.view.by_name) or "none at all"
        raise RouteNotFound(f"there is no node {name[:200]!r}; there are {known}", code="node_not_found")
    return node
