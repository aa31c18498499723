"""Decide where in the fleet a model is loaded, and say of every other node why not there. Pure: no I/O, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from cortex.core.errors import CortexError, InsufficientMemory, NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import choose_devices
from cortex.fleet.fit import DeviceSets, device_sets
from cortex.fleet.obstacles import DeviceRoom, closest, obstacles, rooms_of
from cortex.fleet.plan import COMING_BACK, NOT_FREE, ORDER, Ask, Ledger, Plan, Verdict, blind_plan, ledger_of, plan_on
from cortex.fleet.screen import NAME_AT, Key, Screen, Sifted
from cortex.fleet.situation import Situation
from cortex.fleet.view import NodeView

AVOIDED = "failed this model just now"
# So many full nodes with something to give are compared before what is left is not worth the time.
# When so many have too little to give, all others are sifted once more.
EXAMINED = 16
# How many nodes an error names, or the reason of a wait.
NODES_TOLD = 8


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

    Eight that could serve later are enough: then no more are looked at. Nodes that could not are told with eight of
    their reasons. `untold` counts the others; `explain` has the reasons of all.
    """

    plan: Plan | None
    held: tuple[tuple[str, str], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    untold: int = 0


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
    sifted = screen.sift(situation.view.by_name.values())
    plan, sifted = _best_plan(screen, sifted)
    return Placement(plan) if plan is not None else _without_plan(screen, sifted)


def _best_plan(screen: Screen, sifted: Sifted) -> tuple[Plan | None, Sifted]:
    """Return the best plan, if any, and the nodes, sifted once more if those that promise most have none."""
    view, plans, opened, missed = screen.ask.situation.view, dict[str, Plan](), 0, 0
    ordered: list[tuple[Any, ...]] = [*sifted.free]
    unopened = [*sifted.full]
    heapq.heapify(ordered)
    heapq.heapify(unopened)
    while ordered or unopened:
        if unopened and (not ordered or (opened < EXAMINED and unopened[0] < ordered[0])):
            closer = screen.closer(view.node(heapq.heappop(unopened)[NAME_AT]))
            if closer is not None:
                heapq.heappush(ordered, closer)
                opened += 1
                continue
            missed += 1
            if missed == EXAMINED:
                sifted = screen.resift(sifted, view)
                hopeful = set(_names(sifted.full))
                unopened = [bound for bound in unopened if bound[NAME_AT] in hopeful]
                heapq.heapify(unopened)
            continue
        name = heapq.heappop(ordered)[NAME_AT]
        if name in plans:
            return plans[name], sifted
        plan = _find(screen.ask, view.node(name), screen.avoid).plan
        if plan is not None:
            plans[name] = plan
            heapq.heappush(ordered, plan.sort_key)
    return None, sifted


def _without_plan(screen: Screen, sifted: Sifted) -> Placement:
    """Return where the model could go later, and where not: of the nodes that could never have it, a few."""
    view = screen.ask.situation.view
    held: list[tuple[str, str]] = []
    rejected: list[tuple[str, str]] = []
    for name in (*_names(sifted.full), *sifted.later, *_names(sifted.free)):
        verdict, reason = _verdict(screen, view.node(name))
        (held if verdict == "wait" else rejected).append((name, reason))
        if len(held) >= NODES_TOLD:
            break
    told = sifted.never[: max(0, NODES_TOLD - len(held) - len(rejected))]
    rejected += [(name, _verdict(screen, view.node(name))[1]) for name in told]
    return Placement(None, tuple(held), tuple(rejected), len(view.by_name) - len(held) - len(rejected))


def _names(bounds: Sequence[Key]) -> list[str]:
    return [bound[NAME_AT] for bound in bounds]


def _verdict(screen: Screen, node: NodeView) -> tuple[Verdict, str]:
    """Return what `_find` says of a node without a plan, at a glance where that is enough."""
    found = _find_outside(screen.ask, node, screen.avoid)
    if found is None and (reason := screen.why_not(node)) is not None:
        return _waits(reason), reason
    found = found or _find(screen.ask, node, screen.avoid)
    return found.verdict, found.reason


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
    found = _find_outside(ask, node, avoid)
    if found is not None:
        return found
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


def _find_outside(ask: Ask, node: NodeView, avoid: Set[str]) -> _Finding | None:
    """Return what is found without a look at the memory; None if it is the memory that decides."""
    reason = _refusal(ask.spec, node) or (AVOIDED if node.name in avoid else None)
    return _presence(ask, node) if reason is None else _Finding("never", reason)


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
    sets, ledger, plan = found.sets, found.ledger, found.plan
    indices = plan.devices if plan is not None else closest(ask, node, sets, ledger)
    devices = rooms_of(node, indices, sets.shares, ledger)
    stands = () if plan is not None else tuple(obstacles(ask, node, devices, ledger))
    return Candidate(node.name, found.verdict, plan, devices, stands, found.reason)


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
        return NoHealthyNode(f"no node answers: {_reasons(placement)}")
    screen = Screen.of(Ask(spec, situation), frozenset())
    able = (node for node in view.by_name.values() if screen.could_hold(node))
    if placement.held or any(_could_hold(spec, node, situation) for node in able):
        return InsufficientMemory(f"{spec.id} fits nowhere now: {_reasons(placement)}")
    only = spec.allowed_nodes
    allowed = [node for node in view.nodes if not only or node.name in only]
    down = [node.name for node in allowed if not node.healthy]
    if down:
        return NoHealthyNode(
            f"{spec.id} could run on {_told(', ', down)}, which does not answer: {_reasons(placement)}"
        )
    away = [node.name for node in allowed if node.drained or node.leaving]
    if away:
        where = _told(", ", away)
        return NoHealthyNode(f"{spec.id} could run on {where}, which takes no work: {_reasons(placement)}")
    return NoFeasibleNode(f"no node can serve {spec.id}: {_reasons(placement)}")


def _could_hold(spec: ModelSpec, node: NodeView, situation: Situation) -> bool:
    """Whether *node* would have *spec* if nothing else were there."""
    if _refusal(spec, node) is not None:
        return False
    try:
        device_sets(spec, node, situation.need(spec.id, node.name))
    except NoFeasibleNode:
        return False
    return True


def _reasons(placement: Placement) -> str:
    reasons = [f"{node}: {reason}" for node, reason in (*placement.held, *placement.rejected)]
    return _told("; ", reasons, placement.untold)


def _told(between: str, said: Sequence[str], untold: int = 0) -> str:
    """Join the first few of what is *said*, and count the others."""
    more = len(said[NODES_TOLD:]) + untold
    return f"{between.join(said[:NODES_TOLD])}{f'{between}and {more} more' if more else ''}"
