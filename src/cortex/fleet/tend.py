"""Decide what to do unasked: unload the idle, bring back what belongs, spread a burst, empty or renew a node. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Literal

from cortex.core.quantities import seconds_of
from cortex.fleet.situation import Situation
from cortex.fleet.view import NodeView, ReplicaView, Spot

# A node is idle when none of its replicas had work for so long; only then are they renewed.
RENEW_IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Unload:
    """This replica is to go."""

    spot: Spot
    reason: str
    cause: Literal["moved", "ttl"]


@dataclass(frozen=True, slots=True)
class Want:
    """This model is to get one more replica."""

    model: str
    cause: Literal["spread", "restore", "move"]
    reason: str


@dataclass(frozen=True, slots=True)
class Renew:
    """This replica is to be unloaded and loaded again where it is."""

    spot: Spot
    reason: str


Chore = Unload | Want | Renew


def chores(
    situation: Situation,
    *,
    waiting_since: Mapping[str, float],
    cycles: Mapping[str, int],
    renewed: Set[Spot],
) -> list[Chore]:
    """Return what is to be done now, the most useful first.

    *waiting_since* is when the oldest request in each model's queue came; *cycles* counts unloads by node since its
    replicas were last renewed, and *renewed* are those of them that have been.
    """
    return [
        *_crowded(situation, waiting_since),
        *_missing(situation),
        *_moving(situation),
        *_expired(situation),
        *_worn(situation, cycles, renewed),
    ]


def present(model: str, situation: Situation) -> int:
    """Return how many replicas of *model* there are or will be, those on their way out not counted."""
    there = {
        replica.spot
        for replica in situation.view.replicas_of(model)
        if replica.state in ("ready", "loading") and replica.spot not in situation.leaving
    }
    coming = {(n, c.model) for n, under_way in situation.commitments.items() for c in under_way if c.model == model}
    return len(there | coming)


def _crowded(situation: Situation, waiting_since: Mapping[str, float]) -> Iterator[Chore]:
    """A queue that does not move for a while is a burst: another replica helps where room is free."""
    for model, since in waiting_since.items():
        spec, waited = situation.catalogue.get(model), situation.now - since
        if spec is None or waited < situation.policy.spread_after or not situation.ready(model):
            continue
        if present(model, situation) < spec.max_replicas:
            yield Want(model, "spread", f"requests have waited for {waited:.0f} s")


def _missing(situation: Situation) -> Iterator[Chore]:
    """What is to be resident comes first of all at the start, and back after a burst."""
    for spec in situation.catalogue.values():
        if spec.min_resident and (have := present(spec.id, situation)) < spec.min_resident:
            yield Want(spec.id, "restore", f"{have} of min_resident = {spec.min_resident} are loaded")


def _moving(situation: Situation) -> Iterator[Chore]:
    """A drained node's replicas go once their models are ready elsewhere."""
    for node in situation.view.by_name.values():
        if not node.drained or not node.healthy:
            continue
        for replica in node.replicas:
            if replica.state != "ready" or replica.spot in situation.leaving:
                continue
            if any(not situation.view.node(other.node).drained for other in situation.ready(replica.model)):
                yield Unload(replica.spot, f"{node.name} is drained, and {replica.model} is ready elsewhere", "moved")
            elif replica.model in situation.catalogue:
                yield Want(replica.model, "move", f"{node.name} is drained")


def _expired(situation: Situation) -> Iterator[Chore]:
    """What nobody has used for its ttl goes, down to what is to be resident."""
    for spec in situation.catalogue.values():
        if spec.ttl is None:
            continue
        ttl = seconds_of(spec.ttl)
        for replica in dispensable(spec.id, situation, ttl):
            yield Unload(replica.spot, f"idle for its ttl of {ttl:g} s", "ttl")


def dispensable(model: str, situation: Situation, idle_seconds: float = 0.0) -> list[ReplicaView]:
    """Return the replicas of *model* that may go though no other comes, the longest idle first.

    They have had no work for so long, are not pinned, and are more than are to be resident.
    """
    spec, ready = situation.catalogue.get(model), situation.ready(model)
    idle = [replica for replica in ready if _has_idled(replica, idle_seconds, situation)]
    if spec is not None:
        idle = [replica for replica in idle if not spec.is_pinned_on(replica.node)]
    keep = spec.min_resident if spec is not None else 0
    return sorted(idle, key=situation.last_used)[: max(0, len(ready) - keep)]


def _worn(situation: Situation, cycles: Mapping[str, int], renewed: Set[Spot]) -> Iterator[Chore]:
    """After many unloads a node's memory is in pieces: its replicas are renewed, one by one, while it idles."""
    limit = situation.policy.defrag_after_cycles
    for name, count in cycles.items() if limit else ():
        node = situation.view.by_name.get(name)
        if count < limit or node is None or not _is_idle(node, situation):
            continue
        due = [replica for replica in node.replicas if replica.spot not in renewed]
        if due:
            yield Renew(due[0].spot, f"{count} unloads since it was loaded, defrag_after_cycles = {limit}")


def _is_idle(node: NodeView, situation: Situation) -> bool:
    return node.usable and node.name not in situation.commitments and all(_rests(r, situation) for r in node.replicas)


def _rests(replica: ReplicaView, situation: Situation) -> bool:
    stays = replica.state == "ready" and replica.spot not in situation.leaving
    return stays and _has_idled(replica, RENEW_IDLE_SECONDS, situation)


def _has_idled(replica: ReplicaView, seconds: float, situation: Situation) -> bool:
    return not situation.busy(replica.spot) and situation.now - situation.last_used(replica) >= seconds
