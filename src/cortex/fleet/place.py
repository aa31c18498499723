"""Decide where in the fleet a model is loaded, and say of every other node why not there. Pure: no I/O, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from cortex.core.errors import CortexError, InsufficientMemory, NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import choose_devices
from cortex.fleet.fit import DeviceSets, device_sets
from cortex.fleet.plan import COMING_BACK, NOT_FREE, ORDER, Ask, Ledger, Plan, Verdict, blind_plan, ledger_of, plan_on
from cortex.fleet.screen import NAME_AT, Screen
from cortex.fleet.situation import Situation
from cortex.fleet.view import NodeView

AVOIDED = "failed this model just now"
# So many full nodes with something to give are compared before what is left is not worth the time.
EXAMINED = 16
# How many nodes an error names, or the reason of a wait.
NODES_TOLD = 8


class DeviceRoom(NamedTuple):
    """A device that the model would go on: its usable bytes now, and those that it needs there."""

    device: int
    name: str
    free_bytes: int
    needed_bytes: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node, whole: what would be done there, or what stands in the way, in words."""

    node: str
    verdict: Verdict
    plan: Plan | None = None
    devices: tuple[DeviceRoom, ...] = ()
    obstacles: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """The best plan. Without one, the nodes that could serve later and those that could not, with their reasons.

    Eight that could serve later are enough: then no more are looked at.
    """

    plan: Plan | None
    held: tuple[tuple[str, str], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()


def place(
    spec: ModelSpec,
    situation: Situation,
    *,
    may_evict: bool = True,
    may_drain: bool = False,
    avoid: Set[str] = frozenset(),
    victims_idle_for: float = 0.0,
    unasked: bool = False,
) -> Placement:
    """Return the best plan for *spec* in the whole fleet.

    Nodes are looked at whole in the order of what they could offer at best, until nothing can beat the best found. Of
    full ones it is the best of the 16 that promise most, and of all others only if none of these has a plan.
    """
    ask = Ask(spec, situation, may_evict, may_drain, victims_idle_for, unasked)
    screen = Screen.of(ask, avoid)
    plan, full = _best_plan(screen)
    if plan is not None:
        return Placement(plan)
    held: list[tuple[str, str]] = []
    rejected: list[tuple[str, str]] = []
    for node in sorted(situation.view.nodes, key=lambda node: node.name not in full):
        verdict, reason = _verdict(screen, node, node.name in full)
        (held if verdict == "wait" else rejected).append((node.name, reason))
        if len(held) >= NODES_TOLD:
            break
    return Placement(None, tuple(held), tuple(rejected))


def _best_plan(screen: Screen) -> tuple[Plan | None, Set[str]]:
    """Return the best plan, if any, and the nodes on which nothing but what is there stands in the way."""
    view = screen.ask.situation.view
    bounds: list[tuple[Any, ...]] = [bound for node in view.nodes if (bound := screen.bound(node)) is not None]
    likely = [bound for bound in bounds if bound[0] != ORDER["evict"]]
    unopened = [bound for bound in bounds if bound[0] == ORDER["evict"]]
    heapq.heapify(likely)
    heapq.heapify(unopened)
    plans: dict[str, Plan] = {}
    full: set[str] = set()
    opened = 0
    while likely or unopened:
        if unopened and (not likely or (opened < EXAMINED and unopened[0] < likely[0])):
            name = heapq.heappop(unopened)[NAME_AT]
            full.add(name)
            closer = None if screen.is_all_busy(view.node(name)) else screen.closer(view.node(name))
            if closer is not None:
                heapq.heappush(likely, closer)
                opened += 1
            continue
        name = heapq.heappop(likely)[NAME_AT]
        if name in plans:
            return plans[name], full
        plan = _find(screen.ask, view.node(name), screen.avoid).plan
        if plan is not None:
            plans[name] = plan
            heapq.heappush(likely, plan.sort_key)
    return None, full


def _verdict(screen: Screen, node: NodeView, is_full: bool) -> tuple[Verdict, str]:
    """Return what `_find` says of a node without a plan, at a glance where that is enough."""
    reason = screen.why_not(node) if is_full else None
    if reason is None:
        found = _find(screen.ask, node, screen.avoid)
        return found.verdict, found.reason
    return _waits(reason), reason


def _waits(reason: str) -> Verdict:
    return "wait" if reason in (COMING_BACK, NOT_FREE) else "never"


def explain(
    spec: ModelSpec,
    situation: Situation,
    *,
    may_evict: bool = True,
    may_drain: bool = False,
    avoid: Set[str] = frozenset(),
    victims_idle_for: float = 0.0,
) -> tuple[Candidate, ...]:
    """Return every node as a candidate, the best first; the first one's plan is what `place` returns."""
    ask = Ask(spec, situation, may_evict, may_drain, victims_idle_for)
    candidates = [_candidate(node, _find(ask, node, avoid), ask) for node in situation.view.nodes]
    planned = sorted((c for c in candidates if c.plan), key=lambda c: c.plan.sort_key if c.plan else ())
    return (*planned, *sorted((c for c in candidates if not c.plan), key=lambda c: (ORDER[c.verdict], c.node)))


def consider(
    spec: ModelSpec,
    node: NodeView,
    situation: Situation,
    *,
    may_evict: bool = True,
    may_drain: bool = False,
    victims_idle_for: float = 0.0,
) -> Candidate:
    """Return *node* as a candidate for *spec*."""
    ask = Ask(spec, situation, may_evict, may_drain, victims_idle_for)
    return _candidate(node, _find(ask, node, frozenset()), ask)


class _Finding(NamedTuple):
    verdict: Verdict
    reason: str
    plan: Plan | None = None
    sets: DeviceSets | None = None
    ledger: Ledger | None = None


def _find(ask: Ask, node: NodeView, avoid: Set[str]) -> _Finding:
    reason = _refusal(ask.spec, node) or (AVOIDED if node.name in avoid else None)
    if reason is not None:
        return _Finding("never", reason)
    present = _presence(ask, node)
    if present is not None:
        return present
    need = ask.situation.need(ask.spec.id, node.name)
    try:
        sets = device_sets(ask.spec, node, need)
    except NoFeasibleNode as error:
        return _Finding("never", error.message)
    ledger = ledger_of(node, ask.situation)
    plan = plan_on(ask, node, sets, ledger) if sets.shares else blind_plan(ask, node, sets, ledger)
    if isinstance(plan, Plan):
        return _Finding(plan.verdict, plan.reason, plan, sets, ledger)
    return _Finding(_waits(plan), plan, None, sets, ledger)


def _presence(ask: Ask, node: NodeView) -> _Finding | None:
    """Return what is found on a node that has the model, or is to have it; None elsewhere."""
    replica = node.models.get(ask.spec.id)
    if replica is not None and replica.state not in ("failed", "unloaded"):
        if replica.state == "draining" or replica.spot in ask.situation.leaving:
            return _Finding("wait", "is unloading it")
        return _Finding("wait", "is loading it") if replica.state == "loading" else _Finding("never", "has it already")
    if any(claim.model == ask.spec.id for claim in ask.situation.commitments.get(node.name, ())):
        return _Finding("wait", "a plan for it is in progress there")
    return None


def _candidate(node: NodeView, found: _Finding, ask: Ask) -> Candidate:
    if found.sets is None or found.ledger is None:
        return Candidate(node.name, found.verdict, reason=found.reason, obstacles=(found.reason,))
    devices = _devices(node, found.plan, found.sets, found.ledger)
    obstacles = () if found.plan is not None else tuple(_obstacles(node, devices, found.ledger, ask))
    return Candidate(node.name, found.verdict, found.plan, devices, obstacles, found.reason)


def _devices(node: NodeView, plan: Plan | None, sets: DeviceSets, ledger: Ledger) -> tuple[DeviceRoom, ...]:
    """Return the devices of the plan, or those that come closest."""
    by_free = sorted(sets.rooms, key=lambda room: (-ledger.free_bytes[room.index], room.index))
    indices = plan.devices if plan is not None else tuple(room.index for room in by_free[: sets.count])
    names = {room.index: room.name for room in node.rooms}
    shares = sets.shares or (0,) * len(indices)
    return tuple(
        DeviceRoom(index, names[index], ledger.free_bytes[index], share)
        for index, share in zip(indices, shares, strict=True)
    )


def _obstacles(node: NodeView, devices: tuple[DeviceRoom, ...], ledger: Ledger, ask: Ask) -> Iterator[str]:
    """Say what is missing on each of *devices*, and of everything on them why it stays."""
    totals = {room.index: room.total_bytes - room.free_bytes for room in node.rooms}
    for room in devices:
        where, missing = f"{room.name} (device {room.device})", room.needed_bytes - room.free_bytes
        if missing <= 0:
            continue
        usable = max(0, room.free_bytes)
        yield (
            f"{_mib(room.needed_bytes)} MiB are needed on {where}, where {usable >> 20} MiB can be used: "
            f"{_mib(room.needed_bytes - usable)} MiB are missing"
        )
        other = totals[room.device]
        for resident in ledger.residents:
            held = resident.bytes_by_device.get(room.device, 0)
            if held > 0:
                other -= held
                yield f"{resident.spot[1]} has {_mib(held)} MiB there and {ask.objection(resident) or 'may go'}"
        for claim in ledger.claims:
            if claim.bytes_by_device.get(room.device, 0) > 0:
                yield f"a plan for {claim.model} counts on {_mib(claim.bytes_by_device[room.device])} MiB there"
        if other > 0:
            yield f"{_mib(other)} MiB there belong to other programs"


def why_not(spec: ModelSpec, node: NodeView) -> str | None:
    """Return why *spec* could not be loaded on *node* even if all of it were free, or None if it could be."""
    reason = _refusal(spec, node)
    if reason is not None:
        return reason
    kinds, floor = node.engine_devices.get(spec.engine_name, ()), spec.device_floor_bytes
    try:
        choose_devices(spec.engine_name, node.rooms, spec.wanted_devices, kinds=kinds, floor_bytes=floor)
    except NoFeasibleNode as error:
        return error.message
    return None


def _refusal(spec: ModelSpec, node: NodeView) -> str | None:
    """Return why *node* is none for *spec* whatever devices it has."""
    if spec.allowed_nodes and node.name not in spec.allowed_nodes:
        return f"the catalogue allows only {', '.join(sorted(spec.allowed_nodes))}"
    if not node.healthy:
        return node.reason or "does not answer"
    if node.leaving:
        return "is shutting down"
    if node.drained:
        return "is drained"
    return None if spec.engine_name in node.engines else f"engine {spec.engine_name!r} is not installed"


def no_place(spec: ModelSpec, situation: Situation, placement: Placement) -> CortexError:
    """Return the error for a *placement* without a plan: nobody answers, nobody could, or nobody can now."""
    view = situation.view
    if not view.nodes:
        return NoHealthyNode("no node is configured: add [[neurons]] to the gateway's configuration")
    if not any(node.healthy for node in view.nodes):
        return NoHealthyNode(f"no node answers: {_list(placement.rejected)}")
    could = [node for node in view.nodes if why_not(spec, node) is None]
    avoided = {name for name, reason in placement.rejected if reason == AVOIDED}
    if could and avoided.issuperset(node.name for node in could):
        return NoHealthyNode(f"every node that could serve {spec.id} failed this request just now")
    if placement.held or any(_could_hold(spec, node, situation) for node in could):
        return InsufficientMemory(f"{spec.id} fits nowhere now: {_list((*placement.held, *placement.rejected))}")
    allowed = [node for node in view.nodes if node.name in spec.allowed_nodes or not spec.allowed_nodes]
    down = [node.name for node in allowed if not node.healthy]
    if down:
        names = ", ".join(down)
        return NoHealthyNode(f"{spec.id} could run on {names}, which does not answer: {_list(placement.rejected)}")
    away = [node.name for node in allowed if node.drained or node.leaving]
    if away:
        names = ", ".join(away)
        return NoHealthyNode(f"{spec.id} could run on {names}, which takes no work: {_list(placement.rejected)}")
    return NoFeasibleNode(f"no node can serve {spec.id}: {_list(placement.rejected)}")


def _could_hold(spec: ModelSpec, node: NodeView, situation: Situation) -> bool:
    try:
        device_sets(spec, node, situation.need(spec.id, node.name))
    except NoFeasibleNode:
        return False
    return True


def _list(reasons: tuple[tuple[str, str], ...]) -> str:
    told = "; ".join(f"{node}: {reason}" for node, reason in reasons[:NODES_TOLD])
    return f"{told}; and {len(reasons) - NODES_TOLD} more" if len(reasons) > NODES_TOLD else told


def _mib(bytes_: int) -> int:
    return -(-bytes_ // (1 << 20))
