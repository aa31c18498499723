"""What the gateway knows of its fleet at one moment: immutable values that every decision starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cortex.fleet.fit import Room
from cortex.wire.node_api import ReplicaState


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica, as its node last described it."""

    model: str
    node: str
    state: ReplicaState
    slots: int = 1
    in_flight: int = 0
    queued: int = 0
    context_tokens: int | None = None
    capabilities: tuple[str, ...] = ()
    memory_bytes: int | None = None
    simulated: bool = False
    error: str | None = None
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node. `healthy` is False before its first answer and after too many misses in a row; `reason` says which.

    `engine_devices` has, for each engine, the kinds of devices that its installation there can compute on.
    """

    name: str
    endpoint: str
    healthy: bool
    reason: str = ""
    boot_id: str = ""
    engines: tuple[str, ...] = ()
    engine_devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rooms: tuple[Room, ...] = ()
    replicas: tuple[ReplicaView, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetView:
    """All nodes, in the order of the configuration."""

    nodes: tuple[NodeView, ...] = ()

    def replicas_of(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas of *model* on healthy nodes."""
        return tuple(r for node in self.nodes if node.healthy for r in node.replicas if r.model == model)

    def node(self, name: str) -> NodeView:
        """Return the node called *name*. Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def models(self) -> frozenset[str]:
        """The models that any healthy node has."""
        return frozenset(r.model for node in self.nodes if node.healthy for r in node.replicas)
