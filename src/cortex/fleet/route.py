"""Decide which of a model's ready replicas serves a request."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Literal

import msgspec

from cortex.fleet.pace import UNLEARNED, Pace, Shape, mean_pace
from cortex.fleet.view import ReplicaView, Spot

COMPARED = 32
Reason = Literal["only free replica", "least expected time", "warm prefix"]

_Free = tuple[ReplicaView, float, Pace]
"""A replica that may be chosen, how full it is, and its pace."""


class Among(msgspec.Struct, frozen=True):
    """What a choice was made from; only `passed_over` reads it, once somebody asks."""

    replicas: Sequence[ReplicaView]
    free: Sequence[_Free]
    shape: Shape
    warm: Mapping[str, float]
    avoid: Set[str]


class Choice(msgspec.Struct, frozen=True):
    """The replica that serves, in how many seconds it is expected to be done, and what spoke for it.

    `among` is None where there was but one replica.
    """

    replica: ReplicaView
    expected_seconds: float
    reason: Reason
    among: Among | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A replica as an explanation lists it. `note` says what is special about it, and why it is out if it is."""

    replica: ReplicaView
    expected_seconds: float
    flights: int
    slots: int
    note: str = ""
    eligible: bool = True


def choose(
    replicas: Sequence[ReplicaView],
    *,
    flights: Mapping[Spot, int],
    paces: Mapping[Spot, Pace],
    shape: Shape,
    warm: Mapping[str, float],
    turn: int = 0,
    avoid: Set[str] = frozenset(),
) -> Choice | None:
    """Return the replica with a free slot that is expected to be done first, or None if no slot is free.

    *flights* counts what is under way at a spot; *warm* is, for each node, the fraction of the prompt that it is likely
    to have cached; *avoid* are nodes that failed this very request. A replica that was never measured is taken to be
    as fast as the mean of the free ones that were. Ties go to the least full one, then to the lowest node name: equal
    fleets choose equally.

    Of more than 32 replicas, which must be in order of node as a view has them, only the warm ones and the 32 from
    number *turn* on are compared, or the 32 after them if none of these is free. Then ties go to the first from *turn*
    on: with a turn a request, round robin.
    """
    if len(replicas) == 1:
        return _only(replicas[0], flights, paces, shape, warm, avoid)
    free = _free(replicas, flights, paces, warm, turn, avoid)
    if not free:
        return None
    few = len(replicas) <= COMPARED
    mean: Pace | None = None
    best, least, fill = free[0][0], float("inf"), 0.0
    for replica, load, pace in free:
        if not pace.samples:
            mean = pace = mean or mean_pace(pace for _, _, pace in free)
        seconds = _expected(pace, shape, load, warm.get(replica.node, 0.0))
        if seconds > least:
            continue
        if seconds < least or load < fill or (few and load == fill and replica.node < best.node):
            best, least, fill = replica, seconds, load
    among = Among(replicas, free, shape, warm, frozenset(avoid))
    if few and len(free) == 1:
        return Choice(best, least, "only free replica", among)
    return Choice(best, least, "warm prefix" if warm.get(best.node) else "least expected time", among)


def _only(
    replica: ReplicaView,
    flights: Mapping[Spot, int],
    paces: Mapping[Spot, Pace],
    shape: Shape,
    warm: Mapping[str, float],
    avoid: Set[str],
) -> Choice | None:
    """Choose *replica*, which is all there is, if it has a free slot: there is nothing to compare."""
    spot = replica.node, replica.model
    busy, slots = flights.get(spot, 0), replica.slots or 1
    if busy >= slots or replica.node in avoid:
        return None
    known = paces.get(spot, UNLEARNED)
    pace = known if known.samples else UNLEARNED
    seconds = _expected(pace, shape, busy / slots, warm.get(replica.node, 0.0))
    return Choice(replica, seconds, "only free replica")


def passed_over(choice: Choice) -> dict[str, str]:
    """Return why not the other replicas that *choice* was made from, by node; of more than 32, those compared."""
    among = choice.among
    if among is None:
        return {}
    mean = mean_pace(pace for _, _, pace in among.free)
    free = {replica.node: (load, pace) for replica, load, pace in among.free}
    others = among.replicas if len(among.replicas) <= COMPARED else [replica for replica, _, _ in among.free]
    told = {}
    for node in [replica.node for replica in others if replica.node != choice.replica.node]:
        if node in among.avoid:
            told[node] = "failed this request"
        elif node not in free:
            told[node] = "no free slot"
        else:
            load, pace = free[node]
            pace = pace if pace.samples else mean
            seconds = _expected(pace, among.shape, load, among.warm.get(node, 0.0))
            told[node] = f"done in about {seconds:.1f} s"
    return told


def ranking(
    replicas: Sequence[ReplicaView],
    *,
    flights: Mapping[Spot, int],
    paces: Mapping[Spot, Pace],
    shape: Shape,
    warm: Mapping[str, float],
    avoid: Set[str] = frozenset(),
) -> tuple[Ranked, ...]:
    """Return all *replicas* as `choose` sees them: those that could be chosen first, the best of them in front."""
    free = {replica.spot for replica, _, _ in _with_slot(replicas, flights, paces, avoid)}
    mean = mean_pace(paces[spot] for spot in free if spot in paces)
    ranked = []
    for replica in replicas:
        busy, slots = flights.get(replica.spot, 0), replica.slots or 1
        pace, fraction = paces.get(replica.spot, UNLEARNED), warm.get(replica.node, 0.0)
        seconds = _expected(pace if pace.samples else mean, shape, busy / slots, fraction)
        note = _note(busy < slots, replica.node in avoid, fraction, bool(pace.samples))
        ranked.append(Ranked(replica, seconds, busy, slots, note, replica.spot in free))
    return tuple(
        sorted(ranked, key=lambda r: (not r.eligible, r.expected_seconds, r.flights / r.slots, r.replica.node))
    )


def _note(has_slot: bool, failed: bool, fraction: float, learned: bool) -> str:
    notes = (
        "failed this request" if failed else "",
        "" if has_slot else "no free slot",
        f"has about {fraction:.0%} of the prompt" if fraction else "",
        "" if learned else "not measured yet",
    )
    return ", ".join(note for note in notes if note)


def _expected(pace: Pace, shape: Shape, load: float, fraction: float) -> float:
    """Return the seconds until a request is done: slower by what shares the replica, less what a warm prefix saves.

    Others who use the replica also displace what it has cached: the saving fades as it fills.
    """
    prefill = shape.prompt_tokens / pace.prefill
    seconds = (prefill + shape.completion_tokens / pace.decode) * (1.0 + load)
    return seconds - prefill * fraction * (1.0 - load) if fraction else seconds


def _free(
    replicas: Sequence[ReplicaView],
    flights: Mapping[Spot, int],
    paces: Mapping[Spot, Pace],
    warm: Mapping[str, float],
    turn: int,
    avoid: Set[str],
) -> list[_Free]:
    """Return the replicas to compare."""
    count = len(replicas)
    if count <= COMPARED:
        return _with_slot(replicas, flights, paces, avoid)
    free = _with_slot(_named(replicas, warm), flights, paces, avoid)
    for start in range(turn, turn + count, COMPARED):
        at = start % count
        window = [*replicas[at : at + COMPARED], *replicas[: max(0, at + COMPARED - count)]]
        found = _with_slot(window, flights, paces, avoid)
        if found:
            return free + found
    return free


def _with_slot(
    replicas: Iterable[ReplicaView], flights: Mapping[Spot, int], paces: Mapping[Spot, Pace], avoid: Set[str]
) -> list[_Free]:
    free = []
    for replica in replicas:
        spot = replica.node, replica.model
        busy, slots = flights.get(spot, 0), replica.slots or 1
        if busy < slots and replica.node not in avoid:
            free.append((replica, busy / slots, paces.get(spot, UNLEARNED)))
    return free


def _named(replicas: Sequence[ReplicaView], nodes: Iterable[str]) -> list[ReplicaView]:
    """Return those of the *replicas*, which are in order of node, that are on the first 32 of *nodes*."""
    named = []
    for node in islice(nodes, COMPARED):
        at = bisect_left(replicas, node, key=attrgetter("node"))
        if at < len(replicas) and replicas[at].node == node:
            named.append(replicas[at])
    return named
