"""Say at a glance what a node could offer at best, so that only the best nodes are looked at whole. Pure.

A bound may promise too much, never too little: no plan on the node comes before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from math import inf
from typing import Literal

from cortex.core.model_spec import DEFAULT_PRIORITY
from cortex.fleet.evict import IDLE_SCALE_SECONDS, SPARE_FACTOR
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.plan import ORDER, Ask, why_no_plan
from cortex.fleet.situation import Need
from cortex.fleet.view import NodeView

Key = tuple[int, bool, float, float, float, str]
"""What a plan's sort key begins with."""
NAME_AT = 5
# More bytes than any node has: of nodes that promise the same, those whose replicas idle longest are looked at first.
_FAR = 1e15


@dataclass(frozen=True, slots=True)
class Screen:
    """What is the same for every node of a decision.

    `ranks` has the classes of the catalogue's models, with infinity for those that may not go for this one; `rank` is
    that of all others, and `one_rank` that of all if they are of one class. `load_seconds` is what a load takes where
    none was measured. `busy` counts the replicas with work on each node.
    """

    ask: Ask
    avoid: Set[str]
    engine: str
    allowed: Set[str]
    ranks: Mapping[str, float]
    rank: float
    one_rank: float | None
    wanted: int | Literal["auto"]
    load_seconds: float
    busy: Mapping[str, int]

    @classmethod
    def of(cls, ask: Ask, avoid: Set[str]) -> Screen:
        """Return the screen for *ask*."""
        moment, rank = ask.situation, ask.rank
        ranks = {m: inf if s.pinned or s.priority > rank else s.priority for m, s in moment.catalogue.items()}
        load_seconds = moment.mean_load_seconds.get(ask.spec.id, moment.policy.reload_guess)
        default = DEFAULT_PRIORITY if rank >= DEFAULT_PRIORITY else inf
        ranks_there = {default, *ranks.values()}
        one_rank = default if len(ranks_there) == 1 else None
        engine, allowed, wanted = ask.spec.engine_name, ask.spec.allowed_nodes, ask.spec.wanted_devices
        busy = Counter(node for node, _ in (*moment.flights, *(s for s in moment.foreign if s not in moment.flights)))
        return cls(ask, avoid, engine, allowed, ranks, default, one_rank, wanted, load_seconds, busy)

    def bound(self, node: NodeView) -> Key | None:
        """Return a key that no plan on *node* comes before; None if there is certainly no plan."""
        model, moment = self.ask.spec.id, self.ask.situation
        if not node.healthy or node.drained or node.leaving or node.name in self.avoid:
            return None
        if self.engine not in node.engines or (self.allowed and node.name not in self.allowed):
            return None
        if (replica := node.models.get(model)) is not None and replica.state not in ("failed", "unloaded"):
            return None
        if moment.commitments and any(claim.model == model for claim in moment.commitments.get(node.name, ())):
            return None
        bytes_each = moment.need(model, node.name).bytes_each
        left = self._left(node, bytes_each)
        if left is None:
            return None
        if not bytes_each:
            return ORDER["free"], True, 0.0, 0.0, -left, node.name
        cost = moment.load_seconds.get((node.name, model), self.load_seconds)
        if left >= 0:
            return ORDER["free"], False, 0.0, cost, -left, node.name
        tier = self._least_tier(node)
        return None if tier == inf else (ORDER["evict"], False, tier, cost, node.oldest_use - _FAR, node.name)

    def _left(self, node: NodeView, bytes_each: tuple[int, ...]) -> float | None:
        """Return how many bytes can stay free at most: negative if it does not fit now, None if it never does."""
        kinds, free, totals = node.offer(self.engine)
        if len(kinds) != 1:
            return inf if kinds else None
        if not totals[-1]:
            return inf
        shares = _largest_shares(bytes_each, totals, self.wanted)
        if shares is None:
            return None
        if len(shares) == 1:
            return free[0] - shares[0]
        left = [bytes_ - share for bytes_, share in zip(free, shares, strict=False)]
        return sum(left) if not bytes_each or min(left) >= 0 else -1

    def _least_tier(self, node: NodeView) -> float:
        """Return the lowest tier that a victim on *node* can have; infinite if there is none."""
        moment = self.ask.situation
        if not self.ask.may_evict or not node.replicas:
            return inf
        if moment.policy.strategy == "lru":
            return -max(0.0, moment.now - node.oldest_use)
        if self.one_rank is not None:
            return self.one_rank
        return min(map(self.ranks.get, node.models, repeat(self.rank)))

    def is_all_busy(self, node: NodeView) -> bool:
        """Whether every replica on *node* has work, and none may be drained."""
        return not self.ask.may_drain and self.busy.get(node.name, 0) >= len(node.replicas)

    def closer(self, node: NodeView) -> Key | None:
        """Return the bound of a full node with its replicas looked at; None if all that may go are not enough."""
        model, moment, shares = self.ask.spec.id, self.ask.situation, self._shares(node)
        if shares is None:
            return None
        bytes_ = self._bytes(node)
        opened = sorted(self._openings(node, bytes_))
        room, cost = dict(bytes_), moment.load_seconds.get((node.name, model), self.load_seconds)
        for is_busy, tier, _, _, held in opened:
            _add(room, held)
            if _hold(room, shares):
                if is_busy:
                    return ORDER["drain"], False, -inf, cost, -inf, node.name
                if moment.policy.strategy == "priority":
                    among = [opening for opening in opened if opening[:2] <= (False, tier)]
                    cost += _least_price(bytes_, shares, among)
                return ORDER["evict"], False, tier, cost, -inf, node.name
        return None

    def why_not(self, node: NodeView) -> str | None:
        """Return why a node has no plan that could hold the model but for what is there; None if this cannot tell."""
        shares = None if self.ask.spec.device_floor_bytes else self._shares(node)
        if not shares:
            return None
        able = self._bytes(node).keys()

        def holds(bytes_: Mapping[int, int]) -> bool:
            return _hold({index: bytes_[index] + FLOOR_BYTES for index in able}, shares)

        return why_no_plan(self.ask, node, holds)

    def _shares(self, node: NodeView) -> tuple[int, ...] | None:
        """Return what the roomiest devices must have free, where all devices are of one kind and tell their totals."""
        kinds, _, totals = node.offer(self.engine)
        bytes_each = self.ask.situation.need(self.ask.spec.id, node.name).bytes_each
        if len(kinds) != 1 or not bytes_each or not totals[-1]:
            return None
        return _largest_shares(bytes_each, totals, self.wanted)

    def _bytes(self, node: NodeView) -> dict[int, int]:
        kinds = node.offer(self.engine).kinds
        return {room.index: room.free_bytes for room in node.rooms if room.kind in kinds}

    def _openings(self, node: NodeView, bytes_: dict[int, int]) -> Iterator[_Opening]:
        """Yield what may go on *node*; what is leaving is added to *bytes_* at once."""
        ask, moment, name = self.ask, self.ask.situation, node.name
        now, is_lru, used, leaving = moment.now, moment.policy.strategy == "lru", moment.used, moment.leaving
        flights, foreign = moment.flights, moment.foreign
        for replica in node.replicas:
            model, held = replica.model, replica.bytes_by_device
            spot = (name, model)
            if replica.state == "draining" or spot in leaving:
                _add(bytes_, held)
                continue
            rank = self.ranks.get(model, self.rank)
            if rank == inf or replica.state != "ready":
                continue
            is_busy = bool(flights.get(spot) or foreign.get(spot))
            last = replica.last_used
            idle = max(0.0, now - (max(used.get(spot, 0.0), last) if used else last))
            if not (ask.may_drain if is_busy else idle >= ask.victims_idle_for):
                continue
            if is_lru:
                yield is_busy, -idle, 0.0, model, held
            else:
                price = SPARE_FACTOR * moment.reload_seconds(spot) / (1.0 + idle / IDLE_SCALE_SECONDS)
                yield is_busy, rank, price, model, held


_Opening = tuple[bool, float, float, str, Mapping[int, int]]
"""A replica that may go: whether it is busy, its tier, the least it can cost, its model, and what it holds."""


def _least_price(bytes_: Mapping[int, int], shares: tuple[int, ...], opened: Sequence[_Opening]) -> float:
    """Return what victims cost at least: the cheapest of *opened* that is enough somewhere, or the cheapest two."""
    least, share = inf, min(shares)
    cheapest: dict[int, float] = {}
    for _, _, price, _, held in opened:
        for index, more in held.items():
            if bytes_.get(index, -inf) + more >= share:
                least = min(least, price)
            least = min(least, price + cheapest.get(index, inf))
            cheapest[index] = min(price, cheapest.get(index, inf))
    return least


def _add(bytes_: dict[int, int], held: Mapping[int, int]) -> None:
    for index, more in held.items():
        if index in bytes_:
            bytes_[index] += more


def _hold(bytes_: Mapping[int, int], shares: tuple[int, ...]) -> bool:
    if len(shares) == 1:
        return max(bytes_.values()) >= shares[0]
    return all(b >= s for b, s in zip(sorted(bytes_.values(), reverse=True), shares, strict=False))


@lru_cache(maxsize=4096)
def _largest_shares(
    bytes_each: tuple[int, ...], totals: tuple[int, ...], wanted: int | Literal["auto"]
) -> tuple[int, ...] | None:
    """Return the bytes that must be free on the roomiest devices, the most first; None if *totals* never hold them."""
    need = Need(bytes_each)
    counts = range(1, len(totals) + 1) if wanted == "auto" and bytes_each else (1 if wanted == "auto" else wanted,)
    for count in counts:
        shares = sorted(need.over(count) or (0,) * count, reverse=True)
        beside_floor = tuple(share + FLOOR_BYTES for share in shares)
        if count <= len(totals) and all(t >= s for t, s in zip(totals, beside_floor, strict=False)):
            return beside_floor
    return None
