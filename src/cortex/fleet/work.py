"""What is under way in a fleet: jobs to load a model, work that carries out a plan, and what is told of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cortex.core.errors import CortexError
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.plan import Plan
from cortex.fleet.view import NodeView, ReplicaView, Spot

Cause = Literal["request", "spread", "restore", "move", "recycle", "order"]
Phase = Literal["unloading", "looking", "loading", "confirming"]


@dataclass(eq=False, slots=True)
class Job:
    """A model that is to get one more replica, and why it has none yet.

    `avoid` says of nodes that failed it what of; `shuns` are those of them that failed the request it was begun for,
    before. `tries` counts loads that a node had no memory for.
    """

    model: str
    cause: Cause
    since: float
    rank: int
    avoid: dict[str, CortexError] = field(default_factory=dict)
    shuns: frozenset[str] = frozenset()
    tries: dict[str, int] = field(default_factory=dict)
    work: Work | None = None
    held: str = ""
    failures: int = 0


@dataclass(eq=False, slots=True)
class Work:
    """A plan in progress: victims are unloaded, their memory is seen to be back, the model is loaded, and is seen."""

    plan: Plan
    job: Job
    since: float
    phase: Phase
    pending: set[Spot]
    phase_since: float

    @property
    def spot(self) -> Spot:
        """Where the replica is to be."""
        return self.plan.node, self.plan.model


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was decided or came of it; `at` is in the time of whoever asked for the decision."""

    at: float
    kind: str
    model: str
    node: str
    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


def missing_bytes(work: Work, works: Sequence[Work], node: NodeView) -> str:
    """Return, in words, the memory that *work* counts on and *node* has not; else nothing.

    Before it come those of the *works* there, oldest first, that were planned earlier or that load already: a later
    plan counted on what its own victims leave.
    """
    rooms = {room.index: room for room in node.rooms}
    earlier = works[: works.index(work)]
    others = [w for w in works if (w in earlier or w.phase == "loading") and w is not work and not _is_counted(w, node)]
    missing = []
    for index, needed in work.plan.bytes_by_device.items():
        promised = sum(other.plan.bytes_by_device.get(index, 0) for other in others)
        free = rooms[index].free_bytes - promised - FLOOR_BYTES if index in rooms else 0
        if needed > free:
            missing.append(f"{-(-(needed - free) // (1 << 20))} MiB are missing on device {index}")
    return "; ".join(missing)


def _is_counted(work: Work, node: NodeView) -> bool:
    """Whether the node's own figures have the bytes of *work* already: set aside while it loads, or taken.

    What is unloaded to be loaded anew is there, and does not count.
    """
    if work.phase not in ("loading", "confirming"):
        return False
    replica = node.models.get(work.plan.model)
    return replica is not None and (replica.is_reserved or replica.state == "ready")


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return *plan* as plain values, for events and `explain`."""
    return {
        "node": plan.node,
        "devices": list(plan.devices),
        "bytes_by_device": dict(plan.bytes_by_device),
        "evicts": [model for _, model in plan.victims],
        "drains": [model for _, model in plan.drains],
        "cost_seconds": round(plan.cost_seconds, 3),
        "blind": plan.blind,
        "reason": plan.reason,
    }


def doing(job: Job, replica_at: Callable[[Spot], ReplicaView | None]) -> str:
    """Return in a few words what is being done for *job*, or what holds it."""
    work = job.work
    if work is None:
        return f"{job.model} waits: {job.held}"
    replica = replica_at(work.spot)
    progress = replica.progress if replica is not None and work.phase == "loading" else ""
    steps = {"unloading": "making room", "looking": "reading memory", "confirming": "loaded"}
    return f"loading {job.model} on {work.plan.node}: {progress or steps.get(work.phase, 'starting')}"
