from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import InsufficientMemory, NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.evict import residents
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.place import NODES_TOLD, Candidate, Placement, explain, no_place, place, why_not
from cortex.fleet.plan import Plan
from cortex.fleet.situation import UNKNOWN, Commitment, Need, Policy, Situation
from cortex.fleet.view import FleetView, NodeView
from small_fleets import GIB, NEW, NOW, SPECS, WAYS, holding, moments, node, replica, situation


def found(spec: ModelSpec, moment: Situation, **how: Any) -> Plan:
    plan = place(spec, moment, **how).plan
    assert plan is not None
    return plan


def test_a_plan_names_the_devices_and_the_bytes_on_each() -> None:
    plan = found(NEW, situation(node("a", 4, 9)))

    assert (plan.node, plan.devices, plan.bytes_by_device) == ("a", (1,), {1: 8 * GIB})
    assert (plan.victims, plan.drains, plan.blind) == ((), (), False)
    assert plan.left_bytes == 1 * GIB
    assert plan.reason == "fits beside what is there"


def test_a_split_must_fit_on_each_of_its_devices() -> None:
    """Two of 24 GB are not one of 48: a share that is missing on one cannot be made up on the other."""
    split = ModelSpec(id="new", devices=2)

    assert found(split, situation(node("a", 20, 20), need=40)).bytes_by_device == {0: 20 * GIB, 1: 20 * GIB}
    assert place(split, situation(node("a", 24, 16), need=40)).plan is None


def test_memory_that_other_programs_have_is_not_free() -> None:
    placement = place(NEW, situation(node("a", 5)))

    assert placement == Placement(None, (), (("a", "other programs hold the memory"),))


@pytest.mark.parametrize(("free_bytes", "fits"), [(8 * GIB + FLOOR_BYTES, True), (8 * GIB + FLOOR_BYTES - 1, False)])
def test_the_floor_stays_free(free_bytes: int, fits: bool) -> None:
    here = node("a", rooms=(Room(0, "cuda", "gpu", free_bytes, 0, 24 * GIB),))

    assert (place(NEW, situation(here)).plan is not None) is fits


def test_where_it_loads_fastest_wins_then_the_most_room_then_the_name() -> None:
    nodes = (node("d", 9), node("c", 9), node("b", 20), node("a", 9))

    assert found(NEW, situation(*nodes)).node == "b"
    assert found(NEW, situation(*nodes, load_seconds={("d", "new"): 3.0})).node == "d"
    assert found(NEW, situation(*nodes, load_seconds={("b", "new"): 99.0})).node == "a"


def test_nothing_goes_while_any_node_has_room() -> None:
    """However cheap the eviction, and however slow the load where room is."""
    full = holding("a", 0, replica("a", "old", 20, idle=9e3))
    moment = situation(full, node("z", 8), load_seconds={("a", "new"): 1.0, ("z", "new"): 900.0})

    plan = found(NEW, moment)

    assert (plan.node, plan.victims) == ("z", ())


def test_the_one_idle_longest_in_the_fleet_goes_under_lru() -> None:
    nodes = [holding(n, 0, replica(n, f"m{n}", 20, idle=idle)) for n, idle in (("a", 10), ("b", 500), ("c", 499))]

    plan = found(NEW, situation(*nodes, load_seconds={("b", "mb"): 900.0}))

    assert (plan.node, plan.victims, plan.tier) == ("b", (("b", "mb"),), -500.0)
    assert plan.reason == "fits once mb is gone"


def test_the_lowest_class_in_the_fleet_goes_under_priority() -> None:
    catalogue = {"ma": ModelSpec(id="ma", priority=50), "mb": ModelSpec(id="mb", priority=10)}
    nodes = [holding(n, 0, replica(n, f"m{n}", 20, idle=idle)) for n, idle in (("a", 5e3), ("b", 1), ("c", 5e3))]

    plan = found(NEW, situation(*nodes, catalogue=catalogue, policy=Policy(strategy="priority")))

    assert (plan.node, plan.tier) == ("b", 10.0)


def test_within_a_class_the_cheapest_to_load_again_goes() -> None:
    nodes = [holding(n, 0, replica(n, f"m{n}", 20)) for n in "abc"]
    took = {("a", "ma"): 60.0, ("b", "mb"): 5.0, ("c", "mc"): 60.0}

    plan = found(NEW, situation(*nodes, load_seconds=took, policy=Policy(strategy="priority")))

    assert plan.node == "b"
    assert plan.cost_seconds == pytest.approx(20.0 + 5.0 / (1 + 100 / 300))


def test_where_several_must_go_the_cheapest_together_go() -> None:
    nodes = [holding(n, 0, replica(n, f"{n}0", 4), replica(n, f"{n}1", 4)) for n in "abc"]
    took = {(n, f"{n}{at}"): 5.0 if n == "b" else 60.0 for n in "abc" for at in range(2)}

    plan = found(NEW, situation(*nodes, load_seconds=took, policy=Policy(strategy="priority")))

    assert set(plan.victims) == {("b", "b0"), ("b", "b1")}


def test_no_more_goes_than_what_is_missing() -> None:
    here = holding("a", 1, replica("a", "x", 4, idle=9), replica("a", "y", 7, idle=8), replica("a", "z", 4, idle=7))

    assert set(found(NEW, situation(here)).victims) == {("a", "y")}
    assert set(found(NEW, situation(here, need=9)).victims) == {("a", "x"), ("a", "y")}


@pytest.mark.parametrize(
    ("resident", "moment", "kind", "reason"),
    [
        ({}, {"catalogue": {"old": ModelSpec(id="old", pinned=True)}}, "rejected", "pinned or of a higher class"),
        ({}, {"catalogue": {"old": ModelSpec(id="old", pinned_on=("a",))}}, "rejected", "pinned or of a higher class"),
        ({}, {"catalogue": {"old": ModelSpec(id="old", priority=101)}}, "rejected", "pinned or of a higher class"),
        ({}, {"flights": {("a", "old"): 1}}, "held", "only later"),
        ({}, {"foreign": {("a", "old"): 1}}, "held", "only later"),
        ({"state": "loading"}, {}, "held", "only later"),
        ({}, {"leaving": {("a", "old")}}, "held", "memory is on its way back"),
        ({"state": "draining"}, {}, "held", "memory is on its way back"),
    ],
)
def test_what_may_not_go_stays_and_the_reason_says_whether_waiting_helps(
    resident: dict[str, Any], moment: dict[str, Any], kind: str, reason: str
) -> None:
    here = holding("a", 0, replica("a", "old", 20, **resident))

    placement = place(NEW, situation(here, **moment))

    assert placement.plan is None
    ((name, said),) = getattr(placement, kind)
    assert name == "a"
    assert reason in said


def test_equal_classes_swap_both_ways_and_a_lower_one_never_displaces() -> None:
    catalogue = {"old": ModelSpec(id="old", priority=7)}
    here = holding("a", 0, replica("a", "old", 20))

    def goes(priority: int) -> bool:
        return place(ModelSpec(id="new", priority=priority), situation(here, catalogue=catalogue)).plan is not None

    assert [goes(6), goes(7), goes(8)] == [False, True, True]


def test_what_is_busy_is_drained_only_for_who_has_waited_long() -> None:
    here = holding("a", 0, replica("a", "old", 20))
    moment = situation(here, flights={("a", "old"): 3})

    plan = found(NEW, moment, may_drain=True)

    assert plan.victims == plan.drains == (("a", "old"),)
    assert plan.verdict == "drain"
    assert place(NEW, moment, may_drain=True, may_evict=False).plan is None


def test_nothing_is_drained_while_something_idle_may_go() -> None:
    busy = holding("a", 0, replica("a", "old", 20, idle=9e3))
    idle = holding("b", 0, replica("b", "other", 20, idle=1))

    plan = found(NEW, situation(busy, idle, flights={("a", "old"): 1}), may_drain=True)

    assert (plan.node, plan.drains) == ("b", ())


def test_draining_never_touches_what_is_pinned_or_of_a_higher_class() -> None:
    catalogue = {"p": ModelSpec(id="p", pinned=True), "h": ModelSpec(id="h", priority=101)}
    nodes = (holding("a", 0, replica("a", "p", 20)), holding("b", 0, replica("b", "h", 20)))

    assert place(NEW, situation(*nodes, catalogue=catalogue), may_drain=True).plan is None


def test_a_spare_may_ask_for_free_room_alone() -> None:
    full, free = holding("a", 0, replica("a", "old", 20)), node("b", 9)

    assert place(NEW, situation(full), may_evict=False).held == (("a", "what would have to go may go only later"),)
    assert found(NEW, situation(full, free), may_evict=False).node == "b"


def test_victims_can_be_asked_to_have_been_idle_for_long() -> None:
    moment = situation(holding("a", 0, replica("a", "old", 20, idle=119.0)))

    assert place(NEW, moment, victims_idle_for=120.0).held
    assert found(NEW, moment, victims_idle_for=119.0).victims


def test_what_is_on_its_way_back_is_waited_for_rather_than_taken_from_others() -> None:
    here = holding("a", 0, replica("a", "going", 8), replica("a", "staying", 12, idle=9e3))

    placement = place(NEW, situation(here, leaving={("a", "going")}))

    assert placement == Placement(None, (("a", "memory is on its way back"),), ())


def test_no_other_device_is_emptied_while_memory_of_one_is_on_its_way_back() -> None:
    here = node("a", 0, 0, replicas=(replica("a", "going", 20), replica("a", "old", 0, 20, idle=9e3)))

    assert found(NEW, situation(here)).victims == (("a", "old"),)
    assert place(NEW, situation(here, leaving={("a", "going")})).held == (("a", "memory is on its way back"),)


def test_what_is_on_its_way_back_counts_towards_what_is_missing() -> None:
    here = holding("a", 0, replica("a", "going", 8), replica("a", "x", 4, idle=5), replica("a", "y", 8, idle=9))

    plan = found(NEW, situation(here, need=12, leaving={("a", "going")}))

    assert plan.victims == (("a", "y"),)


def test_a_plan_in_progress_has_its_bytes() -> None:
    claim = {"a": (Commitment("other", {0: 10 * GIB}),)}

    placement = place(NEW, situation(node("a", 16), commitments=claim))

    assert placement.held == (("a", "what would have to go may go only later"),)
    assert found(NEW, situation(node("a", 18), commitments=claim)).left_bytes == 0


@pytest.mark.parametrize(
    ("coming", "fits"),
    [
        ({"state": "loading"}, False),
        ({"state": "loading", "is_reserved": True}, True),
        ({"state": "ready"}, True),
        ({"state": "failed"}, False),
    ],
)
def test_a_claim_counts_until_the_nodes_own_figures_have_it(coming: dict[str, Any], fits: bool) -> None:
    here = holding("a", 9, replica("a", "other", **coming))
    claim = {"a": (Commitment("other", {0: 10 * GIB}),)}

    assert (place(NEW, situation(here, commitments=claim), may_evict=False).plan is not None) is fits


@pytest.mark.parametrize(
    ("resident", "moment", "kind", "reason"),
    [
        ({"state": "ready"}, {}, "rejected", "has it already"),
        ({"state": "loading"}, {}, "held", "is loading it"),
        ({"state": "draining"}, {}, "held", "is unloading it"),
        ({"state": "ready"}, {"leaving": {("a", "new")}}, "held", "is unloading it"),
        (None, {"commitments": {"a": (Commitment("new", {0: 1}),)}}, "held", "a plan for it is in progress there"),
    ],
)
def test_a_node_that_has_the_model_or_is_to_have_it_takes_no_second(
    resident: dict[str, Any] | None, moment: dict[str, Any], kind: str, reason: str
) -> None:
    here = node("a", 20) if resident is None else holding("a", 20, replica("a", "new", 1, **resident))

    placement = place(NEW, situation(here, **moment))

    assert placement.plan is None
    assert getattr(placement, kind) == (("a", reason),)


def test_a_plan_for_the_model_is_told_of_a_full_node_too() -> None:
    moment = situation(holding("a", 0, replica("a", "old", 2)), commitments={"a": (Commitment("new", {0: GIB}),)})

    assert place(NEW, moment).held == (("a", "a plan for it is in progress there"),)


def test_a_full_node_that_is_none_for_the_model_says_so_rather_than_that_it_is_full() -> None:
    full = holding("a", 0, replica("a", "old", 20))

    for spec, reason in (
        (ModelSpec(id="new", nodes=("b",)), "allows only b"),
        (ModelSpec(id="new", engine="x"), "'x'"),
    ):
        ((_, said),) = place(spec, situation(full, flights={("a", "old"): 1})).rejected
        assert reason in said


@pytest.mark.parametrize("state", ["failed", "unloaded"])
def test_what_is_left_of_a_failed_replica_is_no_hindrance(state: str) -> None:
    assert found(NEW, situation(holding("a", 20, replica("a", "new", state=state)))).node == "a"


def test_without_knowing_the_need_the_roomiest_node_is_tried_and_nobody_goes() -> None:
    nodes = (node("a", 3), holding("b", 1, replica("b", "old", 20)), node("c", 2, 2.5))

    plan = found(NEW, situation(*nodes, need=UNKNOWN, load_seconds={("b", "new"): 1.0}))

    assert (plan.node, plan.devices, plan.bytes_by_device, plan.blind) == ("a", (0,), {}, True)
    assert plan.victims == ()


def test_a_node_where_the_model_is_known_to_fit_goes_before_a_blind_try() -> None:
    needs = {"a": UNKNOWN, "b": Need((2 * GIB,), "measured")}
    moment = Situation(NOW, FleetView.of((node("a", 20), node("b", 2))), need=lambda _, name: needs[name])

    assert found(NEW, moment).node == "b"


def test_a_node_that_failed_it_is_passed_over() -> None:
    nodes = (node("a", 20), node("b", 9))

    assert found(NEW, situation(*nodes), avoid={"a"}).node == "b"
    assert place(NEW, situation(*nodes), avoid={"a", "b"}).rejected[0] == ("a", "failed this model just now")


def test_explain_tells_every_node_the_best_first() -> None:
    nodes = (
        node("never", 1, total=4),
        holding("wait", 0, replica("wait", "x", 20)),
        holding("evict", 0, replica("evict", "y", 20)),
        node("free", 9),
        node("down", 9, healthy=False, reason="refused"),
    )
    moment = situation(*nodes, flights={("wait", "x"): 1})

    told = explain(NEW, moment)

    assert [(c.node, c.verdict) for c in told] == [
        ("free", "free"),
        ("evict", "evict"),
        ("wait", "wait"),
        ("down", "never"),
        ("never", "never"),
    ]
    assert "8192 MiB" in told[-1].reason
    assert told[3] == Candidate("down", "never", obstacles=("refused",), reason="refused")


@pytest.mark.parametrize(
    ("spec", "where", "reason"),
    [
        (NEW, node("a", 8), None),
        (ModelSpec(id="m/m", nodes=("a",)), node("a", 8), None),
        (ModelSpec(id="m/m", nodes=("b", "c")), node("a", 8), "the catalogue allows only b, c"),
        (ModelSpec(id="m/m", pinned_on=("b",)), node("a", 8), "the catalogue allows only b"),
        (NEW, node("a", 8, healthy=False, reason="connection refused"), "connection refused"),
        (NEW, node("a", 8, healthy=False), "does not answer"),
        (NEW, node("a", 8, drained=True), "is drained"),
        (NEW, node("a", 8, leaving=True), "is shutting down"),
        (ModelSpec(id="m/m", engine="vllm"), node("a", 8), "engine 'vllm' is not installed"),
        (ModelSpec(id="m/m", devices=2), node("a", 8), "2 devices were asked for; engine 'llamacpp' can use 1 here"),
        (NEW, node("a", rooms=(Room(0, "simulated", "s", GIB),)), "can use 0 here"),
        (ModelSpec(id="m/m", nodes=("b",)), node("a", 8, healthy=False), "the catalogue allows only b"),
    ],
)
def test_each_node_has_one_reason_why_not(spec: ModelSpec, where: NodeView, reason: str | None) -> None:
    said = why_not(spec, where)

    assert said is None if reason is None else said is not None and reason in said


@pytest.mark.parametrize(
    ("spec", "nodes", "error", "said"),
    [
        (NEW, [], NoHealthyNode, ["[[neurons]]"]),
        (
            NEW,
            [node("a", healthy=False, reason="refused"), node("b", healthy=False)],
            NoHealthyNode,
            ["no node answers", "a: refused", "b: "],
        ),
        (
            ModelSpec(id="m/m", engine="vllm"),
            [node("a", 8), node("b", healthy=False, reason="timed out")],
            NoHealthyNode,
            ["m/m could run on b", "a: engine 'vllm' is not installed", "b: timed out"],
        ),
        (ModelSpec(id="m", nodes=("b",)), [node("a", 8), node("b", healthy=False)], NoHealthyNode, ["could run on b"]),
        (
            ModelSpec(id="m", nodes=("b",)),
            [node("a", 8), node("b", 8, drained=True)],
            NoHealthyNode,
            ["b, which takes"],
        ),
        (
            ModelSpec(id="m/m", engine="vllm"),
            [node("a", 8), node("b")],
            NoFeasibleNode,
            ["no node can serve m/m", "b: "],
        ),
        (
            ModelSpec(id="m/m", devices=2, nodes=("a", "c")),
            [node("a", 8), node("b", healthy=False)],
            NoFeasibleNode,
            ["a: 2 devices were asked for", "b: the catalogue allows only a, c"],
        ),
        (NEW, [node("a", 2, total=4)], NoFeasibleNode, ["no node can serve new", "needs 8192 MiB on one device"]),
        (NEW, [node("a", 2)], InsufficientMemory, ["new fits nowhere now", "a: other programs"]),
    ],
)
def test_without_a_plan_the_error_says_whether_to_come_back(
    spec: ModelSpec, nodes: list[NodeView], error: type[Exception], said: list[str]
) -> None:
    """What is down, away or full may change: retry. Nodes that could never serve it: do not."""
    moment = situation(*nodes)

    told = no_place(spec, moment, place(spec, moment))

    assert type(told) is error
    assert all(part in str(told) for part in said)
    assert (told.retry_after_seconds is not None) == (error is not NoFeasibleNode)


def test_an_error_names_a_few_nodes_of_many() -> None:
    moment = situation(*(node(f"n{at:02}", 1) for at in range(NODES_TOLD + 5)))

    said = str(no_place(NEW, moment, place(NEW, moment)))

    assert said.count("other programs") == NODES_TOLD
    assert said.endswith("; and 5 more")


def test_of_many_nodes_that_could_never_serve_a_few_are_told_and_the_others_counted() -> None:
    small, full = [node(f"s{at:02}", 1, total=4) for at in range(20)], holding("z", 0, replica("z", "old", 20))
    moment = situation(*small, full, catalogue={"old": ModelSpec(id="old", pinned=True)})

    placement = place(NEW, moment)

    assert (len(placement.held), len(placement.rejected), placement.untold) == (0, NODES_TOLD, 13)
    assert sum(candidate.verdict == "never" for candidate in explain(NEW, moment)) == 21
    assert str(no_place(NEW, moment, placement)).endswith("; and 13 more")


def test_one_node_that_may_serve_later_is_told_before_many_that_never_will() -> None:
    small, busy = [node(f"s{at:02}", 1, total=4) for at in range(20)], holding("z", 0, replica("z", "old", 20))
    moment = situation(*small, busy, flights={("z", "old"): 1})

    placement = place(NEW, moment)

    assert [name for name, _ in placement.held] == ["z"]
    assert "fits nowhere now: z: " in str(no_place(NEW, moment, placement))


@settings(deadline=None, max_examples=100)
@given(SPECS, moments(), WAYS)
def test_the_first_of_all_explained_is_what_is_planned(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any]
) -> None:
    """Looking at the best nodes alone finds what looking at all of them finds."""
    told, placement = explain(spec, moment, **ways), place(spec, moment, **ways)

    assert placement.plan == (told[0].plan if told else None)
    assert {c.node for c in told} == set(moment.view.by_name)
    if placement.plan is None:
        assert sorted(placement.held) == sorted((c.node, c.reason) for c in told if c.verdict == "wait")
        assert sorted(placement.rejected) == sorted((c.node, c.reason) for c in told if c.verdict == "never")
        assert placement.untold == 0
        assert no_place(spec, moment, placement).status == 503


@settings(deadline=None, max_examples=60)
@given(SPECS, moments(), WAYS, st.randoms())
def test_equal_fleets_in_any_order_have_equal_plans(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any], random: Any
) -> None:
    nodes = list(moment.view.nodes)
    random.shuffle(nodes)
    shuffled = Situation(**{**fields_of(moment), "view": FleetView.of(nodes)})

    assert place(spec, shuffled, **ways).plan == place(spec, moment, **ways).plan


def fields_of(moment: Situation) -> dict[str, Any]:
    return {name: getattr(moment, name) for name in Situation.__slots__}


@settings(deadline=None, max_examples=100)
@given(SPECS, moments(), WAYS)
def test_a_plan_takes_only_what_there_is_and_only_from_those_who_may_go(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any]
) -> None:
    plan = place(spec, moment, **ways).plan
    if plan is None or plan.blind:
        assert plan is None or not plan.victims
        return
    node = moment.view.node(plan.node)
    going = [r for r in residents(node, moment) if r.spot in plan.victims]

    assert node.usable
    assert fits(node, moment, plan, plan.victims)
    assert not any(fits(node, moment, plan, set(plan.victims) - {spared}) for spared in plan.victims)
    assert all(not r.pinned and r.rank <= spec.priority and r.state == "ready" for r in going)
    assert plan.drains == tuple(v for v in plan.victims if moment.busy(v))
    assert not plan.drains or ways.get("may_drain", False)
    assert not plan.victims or ways.get("may_evict", True)


def fits(here: NodeView, moment: Situation, plan: Plan, gone: Any) -> bool:
    """Whether the plan's bytes fit once *gone*, and what is leaving if anybody must go, are gone."""
    for index, bytes_ in plan.bytes_by_device.items():
        free = next(room.free_bytes for room in here.rooms if room.index == index) - FLOOR_BYTES
        for claim in moment.commitments.get(here.name, ()):
            known = here.models.get(claim.model)
            if known is None or not (known.is_reserved or known.state == "ready"):
                free -= claim.bytes_by_device.get(index, 0)
        for each in here.replicas:
            is_leaving = each.state == "draining" or (each.spot in moment.leaving and each.state != "failed")
            if each.spot in gone or (plan.victims and is_leaving):
                free += each.bytes_by_device.get(index, 0)
        if bytes_ > free:
            return False
    return True


@settings(deadline=None, max_examples=60)
@given(SPECS, moments(), WAYS)
def test_a_plan_that_displaces_is_made_only_if_no_node_fits_as_it_is(
    spec: ModelSpec, moment: Situation, ways: dict[str, Any]
) -> None:
    plan = place(spec, moment, **ways).plan
    gentle = place(spec, moment, may_evict=False, avoid=ways.get("avoid", frozenset())).plan

    if gentle is not None:
        assert plan == gentle
    elif plan is not None:
        assert plan.victims


@settings(deadline=None, max_examples=100)
@given(SPECS, moments())
def test_where_everything_that_may_go_would_be_enough_there_is_a_plan(spec: ModelSpec, moment: Situation) -> None:
    """On one device, told without the search: all that may go goes."""
    enough = []
    for here in moment.view.nodes:
        need = moment.need("new", here.name)
        if why_not(spec, here) or len(need.bytes_each) != 1 or spec.devices == 2:
            continue
        if ("new" in here.models and here.models["new"].state != "failed") or here.name in moment.commitments:
            continue
        may_go = [
            r
            for r in residents(here, moment)
            if not r.pinned and not r.busy and r.rank <= spec.priority and r.state == "ready"
        ]
        leaving = any(r.state == "draining" for r in residents(here, moment))
        for room in here.rooms:
            large = room.total_bytes >= max(spec.device_floor_bytes, need.total_bytes + FLOOR_BYTES)
            room_made = room.free_bytes + sum(r.bytes_by_device.get(room.index, 0) for r in may_go)
            if large and not leaving and room.kind != "cpu" and room_made - FLOOR_BYTES >= need.total_bytes:
                enough.append(here.name)

    assert not enough or place(spec, moment).plan is not None
