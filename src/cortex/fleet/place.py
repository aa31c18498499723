"""Decide where a model could be loaded, best place first. Pure: no I/O, no clock, no logging."""

from __future__ import annotations

from dataclasses import dataclass

from cortex.core.errors import NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import Room, choose_devices
from cortex.fleet.view import FleetView, NodeView


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could load the model, and the bytes that are free on the devices it would use."""

    node: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The candidates, best first, and why every other node is none."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[tuple[str, str], ...]


def place(spec: ModelSpec, view: FleetView) -> Placement:
    """Return where *spec* could be loaded: the node with the most free memory first, ties by name.

    The node itself decides whether the model fits, from what its engine estimates and what is free at that moment; a
    node that refuses is followed by the next.
    """
    candidates: list[Candidate] = []
    rejected: list[tuple[str, str]] = []
    for node in view.nodes:
        reason = why_not(spec, node)
        if reason is None:
            free = sum(room.free_bytes for room in _devices_of(spec, node))
            candidates.append(Candidate(node.name, free))
        else:
            rejected.append((node.name, reason))
    return Placement(tuple(sorted(candidates, key=lambda c: (-c.free_bytes, c.node))), tuple(rejected))


def why_not(spec: ModelSpec, node: NodeView) -> str | None:
    """Return why *spec* cannot be loaded on *node*, or None if it could be."""
    if spec.allowed_nodes and node.name not in spec.allowed_nodes:
        return f"the catalogue allows only {', '.join(sorted(spec.allowed_nodes))}"
    if not node.healthy:
        return node.reason or "does not answer"
    if spec.engine_name not in node.engines:
        return f"engine {spec.engine_name!r} is not installed"
    try:
        _devices_of(spec, node)
    except NoFeasibleNode as error:
        return error.message
    return None


def _devices_of(spec: ModelSpec, node: NodeView) -> tuple[Room, ...]:
    """Return the devices of *node* that *spec* would go on. Raises NoFeasibleNode."""
    kinds = node.engine_devices.get(spec.engine_name, ())
    floor = spec.device_floor_bytes
    return choose_devices(spec.engine_name, node.rooms, spec.wanted_devices, kinds=kinds, floor_bytes=floor)


def require_candidates(spec: ModelSpec, view: FleetView, placement: Placement) -> None:
    """Raise the reason why *placement* has no candidate: nobody answers, or nobody could ever serve this model."""
    if placement.candidates:
        return
    if not view.nodes:
        raise NoHealthyNode("no node is configured: add [[neurons]] to the gateway's configuration")
    if not any(node.healthy for node in view.nodes):
        raise NoHealthyNode(f"no node answers: {_list(placement.rejected)}")
    down = [
        node for node in view.nodes if not node.healthy and (node.name in spec.allowed_nodes or not spec.allowed_nodes)
    ]
    if down:
        names = ", ".join(node.name for node in down)
        raise NoHealthyNode(f"{spec.id} could run on {names}, which does not answer: {_list(placement.rejected)}")
    raise NoFeasibleNode(f"no node can serve {spec.id}: {_list(placement.rejected)}")


def _list(rejected: tuple[tuple[str, str], ...]) -> str:
    return "; ".join(f"{node}: {reason}" for node, reason in rejected)
