"""What the gateway knows of its fleet at one moment: immutable values that every decision starts from."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from operator import attrgetter
from typing import NamedTuple

from cortex.fleet.devices import Room, preferred_kinds
from cortex.wire.node_api import ReplicaState

Spot = tuple[str, str]
"""Where a replica is: (node, model)."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica, as its node last described it.

    `bytes_by_device` is what it holds; `is_reserved` says of one that loads that its node has set the rest of its
    bytes aside, so that the node's rooms are already less by them. `last_used` and `ready_since` are in the gateway's
    own time, 0 if its node cannot tell.
    """

    model: str
    node: str
    state: ReplicaState
    slots: int = 1
    in_flight: int = 0
    queued: int = 0
    context_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    bytes_by_device: Mapping[int, int] = field(default_factory=dict, hash=False)
    is_reserved: bool = False
    simulated: bool = False
    error: str | None = None
    load_seconds: float | None = None
    last_used: float = 0.0
    ready_since: float = 0.0
    progress: str = ""

    @property
    def spot(self) -> Spot:
        """Its node and model."""
        return self.node, self.model

    @property
    def memory_bytes(self) -> int | None:
        """What it holds on all devices together; None if that is not known."""
        return sum(self.bytes_by_device.values()) if self.bytes_by_device else None


class Offer(NamedTuple):
    """The devices of a node that an engine is put on: their kinds, and if they are of one kind, their bytes.

    `free_bytes`, `total_bytes` and `most_bytes`, what would be free without any replica, are each sorted by themselves,
    the largest first; `free_by_index` is what is free on each.
    """

    kinds: tuple[str, ...]
    free_bytes: tuple[int, ...]
    total_bytes: tuple[int, ...]
    most_bytes: tuple[int, ...]
    free_by_index: Mapping[int, int]


class Standing(NamedTuple):
    """What decisions ask of every node, worked out once for each view of it: its name, its replicas by model, and:

    `offers` are by engine, and empty if the node takes no new work. `oldest_use` is when the replica that has been
    idle for longest was last used, infinite without replicas; `is_moving` is whether one loads or is on its way out.
    """

    name: str
    models: Mapping[str, ReplicaView]
    offers: Mapping[str, Offer]
    oldest_use: float
    is_moving: bool
    spots: frozenset[Spot]


@dataclass(frozen=True)
class NodeView:
    """A node. `healthy` is False before its first answer and after too many misses in a row; `reason` says which.

    `leaving` is a node that has said that it is shutting down; `drained` is one that the operator takes out of
    service. `rooms` are free bytes less what loads in progress on the node have reserved. `engine_devices` has, for
    each engine, the kinds of devices that its installation there can compute on. `seen_at` is when it last answered.
    """

    name: str
    endpoint: str
    healthy: bool
    reason: str = ""
    leaving: bool = False
    drained: bool = False
    boot_id: str = ""
    version: str = ""
    engines: tuple[str, ...] = ()
    engine_devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    rooms: tuple[Room, ...] = ()
    replicas: tuple[ReplicaView, ...] = ()
    seen_at: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether new work may go there."""
        return self.healthy and not self.drained

    @cached_property
    def models(self) -> Mapping[str, ReplicaView]:
        """Its replicas by model."""
        return {replica.model: replica for replica in self.replicas}

    @cached_property
    def standing(self) -> Standing:
        """What decisions ask of it again and again."""
        return _standing(self)


def _standing(node: NodeView) -> Standing:
    name, replicas = node.name, node.replicas
    used = min([replica.last_used for replica in replicas], default=inf)
    is_moving = not _MOVING.isdisjoint([replica.state for replica in replicas])
    offers = _offers(node) if node.usable and not node.leaving else {}
    return Standing(name, node.models, offers, used, is_moving, frozenset([(name, model) for model in node.models]))


_MOVING: frozenset[ReplicaState] = frozenset({"loading", "draining"})


def _offers(node: NodeView) -> Mapping[str, Offer]:
    rooms = node.rooms
    present, offers = tuple({room.kind: None for room in rooms}), dict[tuple[str, ...], Offer]()
    able = {engine: preferred_kinds(engine, node.engine_devices.get(engine, ()), present) for engine in node.engines}
    for kinds in able.values():
        if kinds not in offers:
            own = [room for room in rooms if len(kinds) == 1 and room.kind == kinds[0]]
            free = sorted([room.free_bytes for room in own], reverse=True)
            totals = sorted([max(room.total_bytes, room.free_bytes) for room in own], reverse=True)
            by_index = {room.index: room.free_bytes for room in own}
            offers[kinds] = Offer(kinds, tuple(free), tuple(totals), _most(by_index, node.replicas), by_index)
    return {engine: offers[kinds] for engine, kinds in able.items()}


def _most(free: Mapping[int, int], replicas: Iterable[ReplicaView]) -> tuple[int, ...]:
    most = dict(free)
    for replica in replicas:
        for index, held in replica.bytes_by_device.items():
            if index in most:
                most[index] += held
    return tuple(sorted(most.values(), reverse=True))


@dataclass(frozen=True, slots=True)
class FleetView:
    """All nodes by name in the order of the configuration, and the replicas of each model on healthy ones.

    A view is never changed: `with_node` shares all but what is different.
    """

    by_name: Mapping[str, NodeView] = field(default_factory=dict)
    by_model: Mapping[str, tuple[ReplicaView, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[NodeView] = ()) -> FleetView:
        """Return the view of *nodes*."""
        view = cls()
        for node in nodes:
            view = view.with_node(node)
        return view

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """The nodes, in order."""
        return tuple(self.by_name.values())

    def with_node(self, node: NodeView) -> FleetView:
        """Return this view with *node* in place of the one of its name, or added.

        What decisions ask of the node is worked out now, node by node, so that no decision has to for the whole fleet.
        """
        _ = node.standing
        return FleetView({**self.by_name, node.name: node}, self._reindexed(self.by_name.get(node.name), node))

    def without_node(self, name: str) -> FleetView:
        """Return this view without the node called *name*."""
        rest = {other: node for other, node in self.by_name.items() if other != name}
        return FleetView(rest, self._reindexed(self.by_name.get(name), None))

    def _reindexed(self, old: NodeView | None, new: NodeView | None) -> Mapping[str, tuple[ReplicaView, ...]]:
        before = old.models if old is not None and old.healthy else {}
        after = new.models if new is not None and new.healthy else {}
        changed = [model for model in {**before, **after} if before.get(model) != after.get(model)]
        if not changed:
            return self.by_model
        index, name = dict(self.by_model), next(node.name for node in (old, new) if node is not None)
        for model in changed:
            replicas = [replica for replica in index.get(model, ()) if replica.node != name]
            if model in after:
                insort(replicas, after[model], key=attrgetter("node"))
            index[model] = tuple(replicas)
            if not replicas:
                del index[model]
        return index

    def replicas_of(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas of *model* on healthy nodes, by node."""
        return self.by_model.get(model, ())

    def node(self, name: str) -> NodeView:
        """Return the node called *name*. Raises KeyError."""
        return self.by_name[name]

    @property
    def models(self) -> frozenset[str]:
        """The models that any healthy node has."""
        return frozenset(self.by_model)
