"""What a decision is made from: the view, the catalogue, what is under way, what models need, and the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from cortex.core.model_spec import ModelSpec
from cortex.fleet.view import FleetView, ReplicaView, Spot

Basis = Literal["measured", "estimate", "declared", "unknown"]


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes that a model takes on each of the devices it is split over, and where that is known from.

    With the basis `unknown` there are no bytes: only the node can tell, once it has the files.
    """

    bytes_each: tuple[int, ...]
    basis: Basis = "estimate"

    @property
    def total_bytes(self) -> int:
        """On all devices together."""
        return sum(self.bytes_each)

    def over(self, count: int) -> tuple[int, ...]:
        """Return the bytes on each of *count* devices; equal shares where that split was never looked at."""
        if len(self.bytes_each) == count or not self.bytes_each:
            return self.bytes_each
        return (-(-self.total_bytes // count),) * count


UNKNOWN = Need((), "unknown")


@dataclass(frozen=True, slots=True)
class Commitment:
    """Bytes of a node that a plan in progress counts on, by device; its model is not there yet."""

    model: str
    bytes_by_device: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """How the operator wants memory to be shared out. Times in seconds.

    `drain_after` is how long a model waits before what is never idle is drained for it, `restore_after` how long a
    replica has been idle before it makes room for what is to be resident, `spread_after` how long a queue stands before
    another replica is opened, `restart_grace` how long a node that said that it would be back is waited for. At most
    `queue_depth` requests wait for each replica, for at most `queue_seconds`. `reload_guess` is what a load is taken to
    last before one was measured.
    """

    strategy: Literal["lru", "priority"] = "lru"
    drain_after: float = 10.0
    restore_after: float = 120.0
    spread_after: float = 3.0
    defrag_after_cycles: int = 0
    queue_depth: int = 256
    queue_seconds: float = 300.0
    restart_grace: float = 30.0
    reload_guess: float = 20.0


def _unknown(_: str, __: str) -> Need:
    return UNKNOWN


@dataclass(frozen=True, slots=True)
class Situation:
    """One moment, whole. Nothing in it is changed by a decision.

    `flights` counts what this gateway has under way at a spot, `foreign` what others had there when the node was last
    seen; `used` is when the gateway last gave a spot work; `leaving` are spots that are being unloaded, `restarting`
    nodes that said they would be back, and when; `commitments` are those of plans in progress, by node;
    `need(model, node)` is what a model takes there. `load_seconds` are measured, `mean_load_seconds` the same by model.
    """

    now: float
    view: FleetView = field(default_factory=FleetView)
    catalogue: Mapping[str, ModelSpec] = field(default_factory=dict)
    flights: Mapping[Spot, int] = field(default_factory=dict)
    foreign: Mapping[Spot, int] = field(default_factory=dict)
    used: Mapping[Spot, float] = field(default_factory=dict)
    leaving: Set[Spot] = frozenset()
    restarting: Mapping[str, float] = field(default_factory=dict)
    commitments: Mapping[str, tuple[Commitment, ...]] = field(default_factory=dict)
    need: Callable[[str, str], Need] = _unknown
    load_seconds: Mapping[Spot, float] = field(default_factory=dict)
    mean_load_seconds: Mapping[str, float] = field(default_factory=dict)
    policy: Policy = Policy()

    def busy(self, spot: Spot) -> int:
        """Return how many requests the replica at *spot* has, this gateway's and others'."""
        return self.flights.get(spot, 0) + self.foreign.get(spot, 0)

    def last_used(self, replica: ReplicaView) -> float:
        """Return when *replica* last had work."""
        return max(self.used.get(replica.spot, 0.0), replica.last_used)

    def reload_seconds(self, spot: Spot) -> float:
        """Return what loading the model there costs: as measured there, else the mean elsewhere, else a guess."""
        known = self.load_seconds.get(spot)
        return self.mean_load_seconds.get(spot[1], self.policy.reload_guess) if known is None else known

    def ready(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas of *model* that may be given work; those of a drained node only if there is no other."""
        ready = [r for r in self.view.replicas_of(model) if r.state == "ready" and r.spot not in self.leaving]
        staying = tuple(replica for replica in ready if not self.view.node(replica.node).drained)
        return staying or tuple(ready)
