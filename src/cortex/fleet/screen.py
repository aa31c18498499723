"""Say at a glance what a node could offer at best, so that only the best nodes are looked at whole. Pure.

A bound may promise too much, never too little: no plan on the node comes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Final, Literal, NamedTuple

from cortex.core.model_spec import DEFAULT_PRIORITY
from cortex.fleet.evict import IDLE_SCALE_SECONDS, SPARE_FACTOR
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.plan import ORDER, Ask, why_no_plan
from cortex.fleet.situation import Need
from cortex.fleet.view import FleetView, NodeView, Offer, Spot, Standing

Key = tuple[int, bool, float, float, float, str]
"""What a plan's sort key begins with."""
NAME_AT: Final = 5
FREE, EVICT, DRAIN = ORDER["free"], ORDER["evict"], ORDER["drain"]
# More bytes than any node has: of nodes that promise the same, those whose replicas idle longest are looked at first.
_FAR = 1e15


class Sifted(NamedTuple):
    """Nodes by what they could offer at best, in the order of the view.

    `free` have room, and `full` could make it: both are bounds, keys that no plan on the node comes before. What is
    `later` has certainly no plan now, and what is `never` certainly none later either.
    """

    free: list[Key]
    full: list[Key]
    later: list[str]
    never: list[str]


@dataclass(frozen=True, slots=True)
class Screen:
    """What is the same for every node of a decision.

    `ranks` has the classes of the catalogue's models as far as they matter to the strategy, with infinity for those
    that may not go for this one; `rank` is that of all others. `classes` are the finite ones with their models, the
    lowest first; `one_rank` is that of all if there is but one. `load_seconds` is what a load takes where none was
    measured. `flights` are the spots where this gateway has work under way.
    """

    ask: Ask
    avoid: Set[str]
    engine: str
    allowed: Set[str]
    ranks: Mapping[str, float]
    rank: float
    classes: tuple[tuple[float, frozenset[str]], ...]
    one_rank: float | None
    wanted: int | Literal["auto"]
    floor_bytes: int
    load_seconds: float
    is_lru: bool
    flights: Set[Spot]

    @classmethod
    def of(cls, ask: Ask, avoid: Set[str]) -> Screen:
        """Return the screen for *ask*."""
        moment, spec, is_lru = ask.situation, ask.spec, ask.situation.policy.strategy == "lru"

        def rank_for(priority: int, is_pinned: bool) -> float:
            return inf if is_pinned or priority > ask.rank else 0.0 if is_lru else priority

        default = rank_for(DEFAULT_PRIORITY, False)
        ranks = {model: rank_for(spec.priority, spec.pinned) for model, spec in moment.catalogue.items()}
        present = {default, *ranks.values()}
        classes = [(rank, frozenset(m for m, r in ranks.items() if r == rank)) for rank in sorted(present - {inf})]
        return cls(
            ask,
            avoid,
            spec.engine_name,
            spec.allowed_nodes,
            ranks,
            default,
            tuple(classes),
            default if len(present) == 1 else None,
            spec.wanted_devices,
            spec.device_floor_bytes,
            moment.mean_load_seconds.get(spec.id, moment.policy.reload_guess),
            is_lru,
            moment.flights.keys(),
        )

    def sift(self, nodes: Iterable[NodeView]) -> Sifted:
        """Return *nodes* by what they could offer at best."""
        sifted = free, full, later, never = Sifted([], [], [], [])
        moment, model, usual, settled = self.ask.situation, self.ask.spec.id, self.load_seconds, not self.ask.may_drain
        need, took, claimed, may_evict = moment.need, moment.load_seconds, moment.commitments, self.ask.may_evict
        for standing in [node.standing for node in nodes]:
            name, models, offers, _, _, spots = standing
            offer = offers.get(self.engine)
            if offer is None or name in self.avoid or (self.allowed and name not in self.allowed):
                never.append(name)
                continue
            if (model in models or name in claimed) and self._is_taken(standing):
                later.append(name)
                continue
            bytes_each = need(model, name).bytes_each
            left = self._left(offer, bytes_each)
            if left is None:
                never.append(name)
            elif not bytes_each:
                free.append((FREE, True, 0.0, 0.0, -left, name))
            elif left >= 0:
                free.append((FREE, False, 0.0, took.get((name, model), usual), -left, name))
            elif (lowest := self._lowest_class(models)) == inf:
                (later if self._may_move(standing) else never).append(name)
            elif not may_evict or (settled and self.flights >= spots):
                later.append(name)
            else:
                full.append(self._bound(standing, lowest))
        return sifted

    def resift(self, sifted: Sifted, view: FleetView) -> Sifted:
        """Return *sifted* with those full nodes set apart where all that may go is certainly not enough.

        That costs more than a glance, and is of use where the nodes that promise most turn out to have no plan.
        """
        full, later, never = list[Key](), [*sifted.later], [*sifted.never]
        busy = {} if self.ask.may_drain else dict(self.ask.situation.flights)
        able = frozenset(model for model in view.by_model if self.ranks.get(model, self.rank) < inf)
        need, model = self.ask.situation.need, self.ask.spec.id
        for bound in sifted.full:
            standing = view.by_name[bound[NAME_AT]].standing
            offer, bytes_each = standing.offers[self.engine], need(model, standing.name).bytes_each
            shares = _largest_shares(bytes_each, offer.total_bytes, self.wanted, self.floor_bytes)
            assert shares is not None, "what is full could hold it"
            idle = standing.spots.difference(busy) if busy else standing.spots
            is_large = offer.most_bytes[0] >= shares[0]
            going = [spot[1] for spot in idle if spot[1] in able] if is_large else ()
            if is_large and _hold(_without(going, standing, offer), shares):
                full.append(bound)
            elif not self._may_move(standing):
                (later if is_large and len(idle) < len(standing.spots) else never).append(standing.name)
            elif is_large:
                full.append(bound)
            else:
                later.append(standing.name)
        return Sifted(sifted.free, full, later, never)

    def _is_taken(self, standing: Standing) -> bool:
        """Whether the node has the model, or is to have it."""
        model, replica = self.ask.spec.id, standing.models.get(self.ask.spec.id)
        if replica is not None and replica.state not in ("failed", "unloaded"):
            return True
        return any(claim.model == model for claim in self.ask.situation.commitments.get(standing.name, ()))

    def _may_move(self, standing: Standing) -> bool:
        """Whether something on the node comes or goes, so that its figures need not add up yet."""
        moment = self.ask.situation
        is_planned = standing.name in moment.commitments
        return (
            standing.is_moving or is_planned or bool(moment.leaving and not moment.leaving.isdisjoint(standing.spots))
        )

    def _bound(self, standing: Standing, lowest: float) -> Key:
        """Return the bound of a node that must lose something before the model fits, the *lowest* class first."""
        moment, name, oldest_use = self.ask.situation, standing.name, standing.oldest_use
        tier = min(0.0, oldest_use - moment.now) if self.is_lru else lowest
        cost = moment.load_seconds.get((name, self.ask.spec.id), self.load_seconds)
        return EVICT, False, tier, cost, oldest_use - _FAR, name

    def could_hold(self, node: NodeView) -> bool:
        """Whether *node* might be large enough if nothing else were there; False is certain."""
        offer = node.standing.offers.get(self.engine)
        need = self.ask.situation.need(self.ask.spec.id, node.name)
        return offer is not None and self._left(offer, need.bytes_each) is not None

    def _left(self, offer: Offer, bytes_each: tuple[int, ...]) -> float | None:
        """Return how many bytes can stay free at most: negative if it does not fit now, None if it never does."""
        kinds, free, totals, _, _ = offer
        if len(kinds) != 1:
            return inf if kinds else None
        shares = _largest_shares(bytes_each, totals, self.wanted, self.floor_bytes)
        if shares is None:
            return None
        if len(shares) == 1:
            return free[0] - shares[0]
        left = [bytes_ - share for bytes_, share in zip(free, shares, strict=False)]
        return sum(left) if not bytes_each or min(left) >= 0 else -1

    def _lowest_class(self, models: Mapping[str, object]) -> float:
        """Return the lowest class of those of *models* that may ever go; infinite if there is none."""
        if self.one_rank is not None:
            return self.one_rank if models else inf
        for rank, members in self.classes:
            if rank > self.rank and not models.keys() <= self.ranks.keys():
                return self.rank
            if not members.isdisjoint(models):
                return rank
        return inf if models.keys() <= self.ranks.keys() else self.rank

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
                    return DRAIN, False, -inf, cost, -inf, node.name
                if moment.policy.strategy == "priority":
                    among = [opening for opening in opened if opening[:2] <= (False, tier)]
                    cost += _least_price(bytes_, shares, among)
                return EVICT, False, tier, cost, -inf, node.name
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
        kinds, _, totals, _, _ = node.standing.offers[self.engine]
        bytes_each = self.ask.situation.need(self.ask.spec.id, node.name).bytes_each
        if len(kinds) != 1 or not bytes_each:
            return None
        return _largest_shares(bytes_each, totals, self.wanted, self.floor_bytes)

    def _bytes(self, node: NodeView) -> dict[int, int]:
        kinds = node.standing.offers[self.engine].kinds
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


def _without(models: Sequence[str], standing: Standing, offer: Offer) -> Mapping[int, int]:
    """Return what would be free on each device if *models* were gone."""
    room = dict(offer.free_by_index)
    for model in models:
        _add(room, standing.models[model].bytes_by_device)
    return room


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
    bytes_each: tuple[int, ...], totals: tuple[int, ...], wanted: int | Literal["auto"], floor_bytes: int
) -> tuple[int, ...] | None:
    """Return the bytes that must be free on the roomiest devices, the most first; None if *totals* never hold them."""
    need, able = Need(bytes_each), [total for total in totals if total >= floor_bytes]
    counts = range(1, len(able) + 1) if wanted == "auto" and bytes_each else (1 if wanted == "auto" else wanted,)
    for count in counts:
        shares = sorted(need.over(count) or (0,) * count, reverse=True)
        beside_floor = tuple(share + FLOOR_BYTES for share in shares)
        is_held = not bytes_each or all(t >= s for t, s in zip(able, beside_floor, strict=False))
        if count <= len(able) and is_held:
            return beside_floor
    return None
