"""Decide who may go and who goes: the cheapest replicas that free enough on every device at once. Pure.

The price of a replica, in seconds, is what its going costs somebody later: the time to load it again, over
`1 + idle / 300`, as what nobody used for long is rarely missed soon. A spare is nearly free, as others serve its
model; one that `min_resident` wants back costs four times as much; a busy one costs the time until it is not, too.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from math import inf
from typing import Literal

from cortex.core.model_spec import DEFAULT_PRIORITY, ModelSpec
from cortex.fleet.situation import Situation
from cortex.fleet.view import NodeView, ReplicaView, Spot
from cortex.wire.node_api import ReplicaState

Strategy = Literal["lru", "priority"]

IDLE_SCALE_SECONDS = 300.0
SPARE_FACTOR = 0.05
KEPT_FACTOR = 4.0
# What is taken for granted of an answer in progress, as nobody can tell how long it will be.
DRAIN_SECONDS = 30.0
# Exact for ten replicas and more on the same devices; beyond it, what the greedy search found.
MAX_EXPANSIONS = 1024

BUSY = "is busy"
LOADING = "is loading"
LEAVING = "is leaving already"
PINNED = "is pinned there"


@dataclass(frozen=True, slots=True)
class Resident:
    """A replica that holds memory, as eviction sees it.

    `is_spare`: other replicas serve its model, and more than `min_resident`. `is_kept`: `min_resident` would load it
    again. In the state "draining" it is on its way out.
    """

    spot: Spot
    bytes_by_device: Mapping[int, int] = field(hash=False)
    rank: int = DEFAULT_PRIORITY
    pinned: bool = False
    busy: bool = False
    idle_seconds: float = 0.0
    reload_seconds: float = 0.0
    ready_seconds: float = inf
    is_spare: bool = False
    is_kept: bool = False
    state: ReplicaState = "ready"

    @property
    def price_seconds(self) -> float:
        """What its going costs."""
        price = self.reload_seconds / (1.0 + self.idle_seconds / IDLE_SCALE_SECONDS)
        factor = SPARE_FACTOR if self.is_spare else KEPT_FACTOR if self.is_kept else 1.0
        return price * factor + (DRAIN_SECONDS if self.busy else 0.0)


def rank_of(model: str, catalogue: Mapping[str, ModelSpec]) -> int:
    """Return the class of *model*: the catalogue's priority, else the default."""
    spec = catalogue.get(model)
    return DEFAULT_PRIORITY if spec is None else spec.priority


def residents(node: NodeView, situation: Situation) -> tuple[Resident, ...]:
    """Return what holds memory on *node*."""
    return tuple(_resident(r, situation) for r in node.replicas if r.state not in ("failed", "unloaded"))


def _resident(replica: ReplicaView, situation: Situation) -> Resident:
    spot, spec = replica.spot, situation.catalogue.get(replica.model)
    keep = 0 if spec is None else spec.min_resident
    is_serving = replica.state == "ready" and spot not in situation.leaving
    others = _others(replica, situation, max(1, keep)) if is_serving else 0
    return Resident(
        spot,
        replica.bytes_by_device,
        rank=DEFAULT_PRIORITY if spec is None else spec.priority,
        pinned=spec is not None and spec.is_pinned_on(replica.node),
        busy=situation.busy(spot) > 0,
        idle_seconds=max(0.0, situation.now - situation.last_used(replica)),
        reload_seconds=situation.reload_seconds(spot),
        ready_seconds=max(0.0, situation.now - replica.ready_since),
        is_spare=is_serving and others >= max(1, keep),
        is_kept=is_serving and others < keep,
        state="draining" if spot in situation.leaving else replica.state,
    )


def _others(replica: ReplicaView, situation: Situation, enough: int) -> int:
    """Count the other replicas that serve the same model, up to *enough*: a large fleet may have a thousand."""
    serving = (
        other
        for other in situation.view.replicas_of(replica.model)
        if other.state == "ready" and other.node != replica.node and other.spot not in situation.leaving
    )
    return sum(1 for _ in islice(serving, enough))


def may_displace(incoming_rank: int, resident: Resident) -> str | None:
    """Return why a model of *incoming_rank* may not take *resident*'s place, or None if it may.

    An equal class may: the two swap, either way. Busy is told last, as it is all that waiting and draining changes.
    """
    if resident.pinned:
        return PINNED
    if resident.rank > incoming_rank:
        return f"is of a higher class ({resident.rank}, not {incoming_rank})"
    if resident.state == "draining":
        return LEAVING
    if resident.state == "loading":
        return LOADING
    return BUSY if resident.busy else None


def tier_of(resident: Resident, strategy: Strategy) -> float:
    """Return what decides before any price: how recently it was used (minus the idle seconds), or its class."""
    return -resident.idle_seconds if strategy == "lru" else float(resident.rank)


def cheapest_victims(
    short: Mapping[int, int], residents: Sequence[Resident], strategy: Strategy
) -> tuple[Resident, ...] | None:
    """Return the cheapest of *residents* that together free the bytes *short* by device; None if all cannot.

    Every one of them may go. A tier is opened only if all before it are not enough: `lru` opens them from the one that
    is idle longest, `priority` from the lowest class. Within what is open the cheapest set wins, and none of it could
    stay. Equal prices go to fewer victims, then to smaller ones, then to the lowest spots.
    """
    missing = {device: bytes_ for device, bytes_ in short.items() if bytes_ > 0}
    useful = [r for r in residents if any(r.bytes_by_device.get(device, 0) > 0 for device in missing)]
    by_tier = sorted(useful, key=lambda r: (tier_of(r, strategy), r.spot))
    opened: list[Resident] = []
    for _, tier in groupby(by_tier, key=lambda r: tier_of(r, strategy)):
        if _is_freed(missing, opened):
            break
        opened.extend(tier)
    return _cheapest(missing, opened) if _is_freed(missing, opened) else None


def _is_freed(missing: Mapping[int, int], gone: Sequence[Resident]) -> bool:
    return all(sum(r.bytes_by_device.get(d, 0) for r in gone) >= bytes_ for d, bytes_ in missing.items())


def _cheapest(missing: Mapping[int, int], opened: Sequence[Resident]) -> tuple[Resident, ...]:
    """Return the first set that frees enough, of all subsets in the order of (price, size, members).

    That order makes it minimal: without one of its members it would have come earlier. Each subset has two successors,
    one with the next replica added and one with it in place of the last; what costs more than the greedy set is cut.
    """
    if not missing:
        return ()
    ordered = sorted(opened, key=lambda r: (r.price_seconds, sum(r.bytes_by_device.values()), r.spot))
    prices = [r.price_seconds for r in ordered]
    greedy = _greedy(missing, ordered)
    limit = sum(r.price_seconds for r in greedy)
    heap: list[tuple[float, int, tuple[int, ...], float]] = [(prices[0], 1, (0,), 0.0)]
    for _ in range(MAX_EXPANSIONS):
        if not heap:
            break
        price, size, members, before = heapq.heappop(heap)
        chosen = tuple(ordered[at] for at in members)
        if _is_freed(missing, chosen):
            return chosen
        after = members[-1] + 1
        if after == len(ordered):
            continue
        for successor in (
            (price + prices[after], size + 1, (*members, after), price),
            (before + prices[after], size, (*members[:-1], after), before),
        ):
            if successor[0] <= limit:
                heapq.heappush(heap, successor)
    return greedy


def _greedy(missing: Mapping[int, int], ordered: Sequence[Resident]) -> tuple[Resident, ...]:
    """Return a set that frees enough, taken from the cheapest on, without what turned out not to be needed."""
    taken: list[Resident] = []
    for resident in ordered:
        if _is_freed(missing, taken):
            break
        taken.append(resident)
    for resident in sorted(taken, key=lambda r: (-r.price_seconds, r.spot)):
        rest = [other for other in taken if other is not resident]
        if _is_freed(missing, rest):
            taken = rest
    return tuple(taken)
