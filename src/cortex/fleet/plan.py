"""Decide what it would take to load a model on one node: nothing, others' going, patience, or too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cortex.core.model_spec import DEFAULT_PRIORITY, ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.evict import BUSY, Resident, cheapest_victims, may_displace, rank_of, residents, tier_of
from cortex.fleet.fit import FLOOR_BYTES, DeviceSets
from cortex.fleet.situation import Commitment, Situation
from cortex.fleet.view import NodeView, Spot

Verdict = Literal["free", "evict", "drain", "wait", "never"]
ORDER: Mapping[Verdict, int] = {"free": 0, "evict": 1, "drain": 2, "wait": 3, "never": 4}

COMING_BACK = "memory is on its way back"
NOT_FREE = "what would have to go may go only later"
HELD = "what would have to go is pinned or of a higher class"
FOREIGN = "other programs hold the memory"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and how a model can be loaded. Bytes are by device index.

    `victims` must be unloaded first; `drains` are those of them that are busy and must be drained. `tier` is the
    strategy's for the victim that it spares most; `cost_seconds` is the load and the price of the victims.
    `left_bytes` stay free on the devices. A `blind` plan is made without knowing what the model needs.
    """

    model: str
    node: str
    devices: tuple[int, ...]
    bytes_by_device: Mapping[int, int] = field(hash=False)
    victims: tuple[Spot, ...] = ()
    drains: tuple[Spot, ...] = ()
    tier: float = 0.0
    cost_seconds: float = 0.0
    blind: bool = False
    reason: str = ""
    left_bytes: int = 0

    @property
    def verdict(self) -> Verdict:
        """How it gets its memory."""
        return "drain" if self.drains else "evict" if self.victims else "free"

    @property
    def sort_key(self) -> tuple[int, bool, float, float, int, str, tuple[int, ...]]:
        """The order of plans, the best first; blind ones go by memory alone, after those that are known to fit."""
        cost = 0.0 if self.blind else self.cost_seconds
        return ORDER[self.verdict], self.blind, self.tier, cost, -self.left_bytes, self.node, self.devices


@dataclass(frozen=True, slots=True)
class Ask:
    """A model that looks for a place, the moment, and what may be done for it.

    `victims_idle_for` is how many seconds a victim must have been idle. For what is `unasked`, because nobody waits for
    it, nothing goes that is to be resident itself.
    """

    spec: ModelSpec
    situation: Situation
    may_evict: bool = True
    may_drain: bool = False
    victims_idle_for: float = 0.0
    unasked: bool = False

    @property
    def rank(self) -> int:
        """Its class."""
        return self.spec.priority

    def outranks(self, model: str, node: str) -> bool:
        """Whether *model* could ever go from *node* for it: not pinned there, and of no higher class."""
        spec = self.situation.catalogue.get(model)
        if spec is None:
            return self.rank >= DEFAULT_PRIORITY
        return self.rank >= spec.priority and not spec.is_pinned_on(node)

    def objection(self, resident: Resident) -> str | None:
        """Return why *resident* may not go for it now, or None if it may."""
        reason = may_displace(self.rank, resident)
        if reason == BUSY:
            return self._objection_to_drain(resident)
        if reason is None and not self.may_evict:
            return "may go, but nothing is to go for this"
        if reason is None and self.unasked and resident.is_kept:
            return "is to be resident itself"
        if reason is None and resident.idle_seconds < self.victims_idle_for:
            return f"has been idle for {resident.idle_seconds:.0f} s, not {self.victims_idle_for:.0f} s"
        return reason

    def _objection_to_drain(self, resident: Resident) -> str | None:
        """Return why a busy replica may not be drained: its load must have been worth it, or two that are never idle
        would do nothing but take turns."""
        worth = max(self.situation.policy.drain_after, resident.reload_seconds)
        if not (self.may_drain and self.may_evict):
            return BUSY
        if resident.ready_seconds < worth:
            return f"{BUSY}, and has been there for {resident.ready_seconds:.0f} s, not {worth:.0f} s"
        return None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The bytes of a node's devices, by device index, and who has them.

    `free_bytes` can be used now: less the floor and less the `claims` of plans in progress. `returning_bytes` are held
    by what is leaving, of which `soon_bytes` by what is idle and gone in a moment.
    """

    free_bytes: Mapping[int, int]
    returning_bytes: Mapping[int, int]
    residents: tuple[Resident, ...]
    claims: tuple[Commitment, ...]
    soon_bytes: Mapping[int, int]


def ledger_of(node: NodeView, situation: Situation) -> Ledger:
    """Return the ledger of *node*."""
    claims, held = outstanding(node, situation), residents(node, situation)
    claimed = _sum(claim.bytes_by_device for claim in claims)
    free = {room.index: room.free_bytes - FLOOR_BYTES - claimed.get(room.index, 0) for room in node.rooms}
    leaving = [resident for resident in held if resident.state == "draining"]
    soon = _sum(resident.bytes_by_device for resident in leaving if not resident.busy)
    return Ledger(free, _sum(resident.bytes_by_device for resident in leaving), held, claims, soon)


def outstanding(node: NodeView, situation: Situation) -> tuple[Commitment, ...]:
    """Return the commitments on *node* that its rooms do not know of: once a load is reserved, or done, they do."""
    return tuple(
        claim
        for claim in situation.commitments.get(node.name, ())
        if (replica := node.models.get(claim.model)) is None
        or not (replica.is_reserved or replica.state == "ready")
        or replica.spot in situation.leaving
    )


def _sum(shares: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for share in shares:
        for index, bytes_ in share.items():
            total[index] = total.get(index, 0) + bytes_
    return total


def add(*shares: Mapping[int, int]) -> Mapping[int, int]:
    """Return the sum of bytes by device; devices that only later ones have do not count."""
    return {index: sum(share.get(index, 0) for share in shares) for index in shares[0]}


def plan_on(ask: Ask, node: NodeView, sets: DeviceSets, ledger: Ledger) -> Plan | str:
    """Return the best plan on *node*, or in a few words why there is none now."""
    rooms = sets.roomiest(ledger.free_bytes)
    if rooms is not None:
        return _plan(ask, node.name, rooms, sets.shares, ledger.free_bytes, ())
    later = add(ledger.free_bytes, ledger.returning_bytes)
    if sets.roomiest(later) is not None:
        return COMING_BACK
    # Nobody goes for memory that cannot be used before something else has ended: only what is back soon counts.
    soon = add(ledger.free_bytes, ledger.soon_bytes)
    allowed = [resident for resident in ledger.residents if ask.objection(resident) is None]
    idle = [resident for resident in allowed if not resident.busy]
    plan = _after_eviction(ask, node.name, sets, soon, idle)
    if plan is None and len(idle) < len(allowed):
        plan = _after_eviction(ask, node.name, sets, soon, allowed)
    return plan or why_no_plan(ask, node, lambda bytes_: sets.roomiest(bytes_) is not None)


def _after_eviction(
    ask: Ask, node: str, sets: DeviceSets, soon: Mapping[int, int], allowed: Sequence[Resident]
) -> Plan | None:
    """Return the best plan that *allowed* make room for, on top of the bytes that are free *soon*."""
    strategy = ask.situation.policy.strategy
    within = add(soon, _sum(resident.bytes_by_device for resident in allowed))
    plans = []
    for rooms in sets.within(within):
        short = {room.index: share - soon[room.index] for room, share in zip(rooms, sets.shares, strict=True)}
        victims = cheapest_victims(short, allowed, strategy)
        if victims:
            plans.append(_plan(ask, node, rooms, sets.shares, soon, victims))
    return min(plans, key=lambda plan: plan.sort_key, default=None)


def _plan(
    ask: Ask, node: str, rooms: Sequence[Room], shares: Sequence[int], free: Mapping[int, int], gone: Sequence[Resident]
) -> Plan:
    strategy, model = ask.situation.policy.strategy, ask.spec.id
    devices = tuple(room.index for room in rooms)
    freed = sum(resident.bytes_by_device.get(index, 0) for resident in gone for index in devices)
    names = ", ".join(sorted(resident.spot[1] for resident in gone))
    return Plan(
        model,
        node,
        devices,
        dict(zip(devices, shares, strict=True)) if shares else {},
        victims=tuple(resident.spot for resident in gone),
        drains=tuple(resident.spot for resident in gone if resident.busy),
        tier=max((tier_of(resident, strategy) for resident in gone), default=0.0),
        cost_seconds=ask.situation.reload_seconds((node, model)) + sum(r.price_seconds for r in gone),
        reason=f"fits once {names} {'is' if len(gone) == 1 else 'are'} gone" if gone else "fits beside what is there",
        left_bytes=sum(free[index] for index in devices) + freed - sum(shares),
    )


def blind_plan(ask: Ask, node: NodeView, sets: DeviceSets, ledger: Ledger) -> Plan:
    """Return the plan for a need that only the node can tell: the devices with the most room, and nobody goes."""
    rooms = sets.roomiest(ledger.free_bytes)
    assert rooms is not None, "sets without shares fit anywhere"
    devices, cost = tuple(room.index for room in rooms), ask.situation.reload_seconds((node.name, ask.spec.id))
    left, reason = sum(ledger.free_bytes[index] for index in devices), "what it needs is not known before it is tried"
    return Plan(ask.spec.id, node.name, devices, {}, cost_seconds=cost, blind=True, reason=reason, left_bytes=left)


def why_no_plan(ask: Ask, node: NodeView, holds: Callable[[Mapping[int, int]], bool]) -> str:
    """Return in a few words why there is no plan on *node*; *holds* tells of free bytes by device if they were enough.

    COMING_BACK or NOT_FREE if waiting may help; HELD if those in the way need never go, FOREIGN if they are not ours.
    """
    moment, claims = ask.situation, outstanding(node, ask.situation)
    bytes_ = {room.index: room.free_bytes - FLOOR_BYTES for room in node.rooms}
    for claim in claims:
        _give(bytes_, claim.bytes_by_device, -1)
    later: list[Mapping[int, int]] = []
    never: list[Mapping[int, int]] = []
    for replica in node.replicas:
        if replica.state == "draining" or (node.name, replica.model) in moment.leaving:
            _give(bytes_, replica.bytes_by_device)
        elif replica.state in ("ready", "loading"):
            (later if ask.outranks(replica.model, node.name) else never).append(replica.bytes_by_device)
    if holds(bytes_):
        return COMING_BACK
    for claim in claims:
        (later if rank_of(claim.model, moment.catalogue) <= ask.rank else never).append(claim.bytes_by_device)
    for held in later:
        _give(bytes_, held)
    if holds(bytes_):
        return NOT_FREE
    for held in never:
        _give(bytes_, held)
    if holds(bytes_):
        return HELD
    moving = claims or any(replica.state in ("loading", "draining") for replica in node.replicas)
    return NOT_FREE if moving else FOREIGN  # while something comes or goes, figures need not add up yet


def _give(bytes_: dict[int, int], held: Mapping[int, int], sign: int = 1) -> None:
    for index, more in held.items():
        if index in bytes_:
            bytes_[index] += sign * more
