"""The run loop against machines of which every figure is known: who is loaded, who waits, who goes, and what fails."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from cortex.core.errors import (
    CortexError,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NoFeasibleNode,
    NoHealthyNode,
    Overloaded,
    ShuttingDown,
    UpstreamFailed,
)
from cortex.core.model_spec import ModelSpec
from cortex.fleet.carrier import CONFIRM_SECONDS, SETTLE_SECONDS
from cortex.fleet.doors import Ticket
from cortex.fleet.reconciler import MAX_TRIES
from cortex.fleet.tend import RENEW_IDLE_SECONDS
from cortex.fleet.work import Job
from fake_world import GIB, START, Held, Machine, OrderKind, World, model

X, Y, Z = model("x", 5), model("y", 5), model("z", 3)
BEFORE: dict[str, OrderKind] = {"unloading": "unload", "looking": "look", "loading": "load", "confirming": "look"}


def world(*specs: ModelSpec, **policy: Any) -> World:
    """A node `a` of 8 GiB with one slot a replica, and the models x (5), y (5) and z (3)."""
    return World(Machine("a"), models=specs or (X, Y, Z), **policy)


def pair(*specs: ModelSpec, **policy: Any) -> World:
    """The same with a node `b` of 7 GiB, which is the second choice."""
    return World(Machine("a"), Machine("b", (7,)), models=specs or (X, Y, Z), **policy)


def job(world: World, name: str) -> Job:
    found = world.reconciler.job(name)
    assert found is not None
    return found


# cold starts ----------------------------------------------------------------------------------------------------------


def test_a_cold_model_is_loaded_once_for_all_who_ask() -> None:
    w = World(Machine("a", slots=8), models=[X])
    tickets = [w.ask("x") for _ in range(5)]
    w.settle()

    assert [w.served(ticket) for ticket in tickets] == ["a"] * 5
    assert w.told("load_started", "load_finished") == [("load_started", "x", "a"), ("load_finished", "x", "a")]


def test_those_who_come_while_it_loads_share_the_load() -> None:
    w = World(Machine("a", slots=8), models=[X])
    w.ask("x")
    w.settle("load")
    late = w.ask("x")
    w.settle()

    assert w.served(late) == "a"
    assert len(w.told("load_started")) == 1


def test_a_load_survives_the_client_that_caused_it() -> None:
    w = world()
    ticket = w.ask("x")
    w.settle("load")
    w.leave(ticket)
    w.settle()

    assert w.loaded == {("a", "x")}
    assert w.reconciler.job("x") is None


def test_what_was_not_begun_for_a_client_is_not_begun_once_it_left() -> None:
    """Nobody is drained for one who is gone."""
    w = world(drain_after=10.0)
    w.finish(_served(w, "x"))
    busy = w.ask("x")
    ticket = w.ask("y")
    w.settle()
    w.leave(ticket)
    w.wait(20)

    assert w.served(busy) == "a"
    assert w.loaded == {("a", "x")}
    assert w.reconciler.job("y") is None
    assert w.told("evicted") == []


def test_the_failure_of_a_load_is_that_of_all_who_wait() -> None:
    w = world()
    tickets = [w.ask("x") for _ in range(3)]
    w.settle("load")
    error = LoadFailed("the file is damaged")
    w.carry_out(w.ordered("load")[0], error)
    w.settle()

    assert [w.fates[ticket] for ticket in tickets] == [error] * 3
    assert w.told("load_failed", "refused") == [("load_failed", "x", "a"), ("refused", "x", "")]


def test_the_next_request_after_a_failure_tries_anew() -> None:
    w = world()
    failed = w.ask("x")
    w.settle("load")
    w.carry_out(w.ordered("load")[0], LoadFailed("the file is damaged"))
    ticket = w.ask("x")
    w.settle()

    assert isinstance(w.error(failed), LoadFailed)
    assert w.served(ticket) == "a"


@pytest.mark.parametrize(
    "error",
    [NoFeasibleNode("no"), ShuttingDown("no"), UpstreamFailed("no"), LoadFailed("no"), ModelNotReady("no")],
    ids=lambda error: error.code,
)
def test_another_node_is_tried_after_a_failure(error: CortexError) -> None:
    w = pair()
    ticket = w.ask("x")
    w.settle("load")
    (order,) = w.ordered("load")
    w.carry_out(order, error)
    w.settle()

    assert w.served(ticket) == {"a": "b", "b": "a"}[order.node]


def test_a_model_that_fails_on_two_nodes_is_taken_to_be_broken() -> None:
    w = World(*(Machine(name) for name in "abcd"), models=[X])
    ticket = w.ask("x")
    for _ in range(2):
        w.settle("load")
        w.carry_out(w.ordered("load")[0], LoadFailed("the file is damaged"))
    w.settle()

    assert isinstance(w.error(ticket), LoadFailed)
    assert len(w.told("load_started")) == 2


@pytest.mark.parametrize("error", [UpstreamFailed("lost"), ShuttingDown("bye"), NoFeasibleNode("no")], ids=str)
def test_what_says_nothing_against_the_model_is_tried_on_every_node(error: CortexError) -> None:
    w = World(*(Machine(name) for name in "abcd"), models=[X])
    ticket = w.ask("x")
    for _ in range(3):
        w.settle("load")
        w.carry_out(w.ordered("load")[0], error)
    w.settle()

    assert w.served(ticket) == "d"


def test_nodes_that_die_one_after_another_say_nothing_against_the_model() -> None:
    w = World(*(Machine(name) for name in "abcd"), models=[X])
    ticket = w.ask("x")
    for name in "abc":
        w.settle("look", "load")
        assert [order.node for order in w.ordered("look")] == [name]
        w.kill(name)
    w.settle()

    assert w.served(ticket) == "d"


def test_a_node_without_memory_after_all_is_asked_again_what_the_model_needs() -> None:
    w = world()
    ticket = w.ask("x")
    for _ in range(MAX_TRIES):
        w.settle("load")
        w.carry_out(w.ordered("load")[0], InsufficientMemory("there is less than you think"))
        assert len(w.ordered("estimate")) == (ticket not in w.fates)
    w.settle()

    assert str(w.error(ticket)) == "there is less than you think"
    assert len(w.told("load_started")) == MAX_TRIES


def test_a_need_that_turns_out_larger_goes_where_it_fits() -> None:
    """The node's word counts more than what was thought."""
    w = pair(model("x", 7))
    w.edit(model("x", 6))
    ticket = w.ask("x")
    w.settle("load")
    (order,) = w.ordered("load")
    w.machines[order.node].strangers[0] = 4 * GIB
    w.carry_out(order)
    w.settle()

    assert w.served(ticket) == {"a": "b", "b": "a"}[order.node]


def test_a_model_of_unknown_need_is_tried_where_there_is_most_room() -> None:
    w = World(Machine("a"), Machine("b", (16,)), models=[model("blind", 0)])
    ticket = w.ask("blind")
    w.settle()

    assert w.served(ticket) == "b"


def test_a_model_over_two_devices_takes_its_share_of_each() -> None:
    w = World(Machine("a", (4, 4)), models=[model("wide", 6)])
    ticket = w.ask("wide")
    w.settle()

    assert w.served(ticket) == "a"
    assert w.machines["a"].held["wide"].bytes_by_device == {0: 3 * GIB, 1: 3 * GIB}


@pytest.mark.parametrize(("nodes", "error"), [("", NoHealthyNode), ("a", NoFeasibleNode)])
def test_what_can_never_be_had_is_refused_at_once(nodes: str, error: type[CortexError]) -> None:
    w = World(*(Machine(name) for name in nodes), models=[model("huge", 99)])
    ticket = w.ask("huge")
    w.settle()

    assert isinstance(w.error(ticket), error)
    assert w.reconciler.job("huge") is None


def test_names_that_clients_make_up_leave_nothing_behind() -> None:
    w = world()
    before = _size(w.reconciler)
    for n in range(50):
        assert isinstance(w.error(w.ask(f"made-up-{n}")), ModelNotFound)

    assert _size(w.reconciler) == before


def _size(what: object) -> int:
    """Count all that an object and its parts keep in containers."""
    slots = list(vars(what).values())
    parts = [part for part in slots if type(part).__module__.startswith("cortex.fleet.") and hasattr(part, "__dict__")]
    return sum(len(part) for part in slots if hasattr(part, "__len__")) + sum(_size(part) for part in parts)


def _served(w: World, name: str) -> Ticket:
    """Ask for a model and return the ticket once it is served."""
    ticket = w.ask(name)
    w.settle()
    assert w.served(ticket) is not None
    return ticket


# making room ----------------------------------------------------------------------------------------------------------


def test_of_two_models_that_fit_only_singly_one_waits_its_turn() -> None:
    w = world()
    first, second = w.ask("x"), w.ask("y")
    w.settle()
    assert (w.served(first), w.served(second)) == ("a", None)

    w.finish(first)
    w.settle()

    assert w.served(second) == "a"
    assert w.loaded == {("a", "y")}


def test_nothing_is_loaded_before_the_memory_of_the_victim_is_seen_to_be_back() -> None:
    w = world()
    w.finish(_served(w, "x"))
    w.machines["a"].gives_back = False
    ticket = w.ask("y")
    w.wait(5)
    assert (w.loaded, w.ordered("load")) == (set(), [])
    w.give_back("a")
    assert w.ordered("load") == []
    w.wait(1)

    assert w.served(ticket) == "a"


def test_memory_that_does_not_come_back_ends_the_plan_and_another_is_made() -> None:
    w = pair(X, Y)
    x, y = _served(w, "x"), _served(w, "y")
    here, there = w.served(x), w.served(y)
    assert {here, there} == {"a", "b"}
    w.finish(x)
    w.machines[str(here)].gives_back = False
    w.edit(X, Y, model("w", 5))
    ticket = w.ask("w")
    w.wait(SETTLE_SECONDS + 1)
    assert w.told("plan_dropped") == [("plan_dropped", "w", here)]
    assert w.served(ticket) is None
    w.finish(y)
    w.settle()

    assert w.served(ticket) == there


def test_a_plan_is_dropped_when_the_reading_shows_less_and_made_anew() -> None:
    w = pair()
    ticket = w.ask("x")
    w.settle("look")
    (look,) = w.ordered("look")
    w.machines[look.node].strangers[0] = 4 * GIB
    w.settle()

    assert w.told("plan_dropped") == [("plan_dropped", "x", look.node)]
    assert w.served(ticket) == {"a": "b", "b": "a"}[look.node]


def test_a_stale_reading_never_starts_a_load() -> None:
    """The node did not answer the look: what is known of it is older than the plan."""
    w = world()
    w.now += 1
    ticket = w.ask("x")
    w.settle("look")
    w.orders.remove(w.ordered("look")[0])
    w.reconciler.looked("a", w.now)
    assert w.orders == []
    w.wait(1)

    assert w.served(ticket) == "a"


def test_what_is_idle_for_longest_goes_first() -> None:
    w = World(Machine("a", (9,)), models=[model(name, 3) for name in "pqrs"])
    for name in "qpr":
        w.finish(_served(w, name))
        w.wait(5)
    _served(w, "s")

    assert w.told("evicted") == [("evicted", "q", "a")]


@pytest.mark.parametrize("guard", [{"pinned": True}, {"pinned_on": ("a",)}, {"priority": 200}])
def test_what_is_pinned_or_of_a_higher_class_is_never_evicted(guard: dict[str, Any]) -> None:
    w = world(model("x", 5, **guard), Y, drain_after=1.0)
    w.finish(_served(w, "x"))
    ticket = w.ask("y")
    w.wait(60)

    assert w.loaded == {("a", "x")}
    assert isinstance(w.error(ticket), InsufficientMemory)


def test_a_higher_class_displaces_a_lower() -> None:
    w = world(model("x", 5, priority=50), Y)
    w.finish(_served(w, "x"))

    assert w.served(_served(w, "y")) == "a"


def test_what_is_busy_is_not_chosen_before_it_is_idle() -> None:
    w = world(drain_after=60.0)
    busy = _served(w, "x")
    ticket = w.ask("y")
    w.wait(30)
    assert (w.loaded, w.told("evicted")) == ({("a", "x")}, [])
    w.finish(busy)
    w.settle()

    assert w.served(ticket) == "a"


def test_what_others_use_is_busy_too() -> None:
    w = world(drain_after=60.0)
    held = w.put("a", "x", others=1)
    ticket = w.ask("y")
    w.wait(30)
    assert w.told("evicted") == []
    held.others = 0
    w.show("a")
    w.settle()

    assert w.served(ticket) == "a"


def test_after_a_while_what_is_never_idle_is_drained_and_comes_back_for_those_who_wait_for_it() -> None:
    w = world(drain_after=10.0)
    busy = _served(w, "x")
    behind = w.ask("x")
    ticket = w.ask("y")
    w.wait(11)
    assert w.told("evicted") == [("evicted", "x", "a")]
    assert w.loaded == {("a", "x")}
    late = w.ask("x")
    assert w.served(late) is None
    w.finish(busy)
    w.settle()
    assert (w.served(behind), w.served(ticket)) == (None, "a")
    w.finish(ticket)
    w.settle()
    assert (w.served(behind), w.served(late)) == ("a", None)
    w.finish(behind)

    assert w.served(late) == "a"


def test_two_models_that_are_always_busy_alternate() -> None:
    w = world(drain_after=10.0)
    served: dict[str, list[float]] = {"x": [], "y": []}
    tickets = [w.ask(name) for name in ("x", "x", "y", "y")]
    for _ in range(120):
        w.wait(1)
        for ticket in [ticket for ticket in tickets if ticket in w.flights]:
            served[ticket.model].append(w.now)
            w.finish(ticket)
            tickets.remove(ticket)
            tickets.append(w.ask(ticket.model))

    for times in served.values():
        gaps = [after - before for before, after in pairwise(times)]
        assert times[0] - START < 15
        assert max(gaps) < 15
    assert len(w.told("evicted")) >= 5


def test_a_plan_whose_memory_is_there_does_not_wait_for_what_a_later_plan_drains() -> None:
    """Each counts on what its own victims leave."""
    w = world(*(model(name, 4) for name in "pqrs"), drain_after=10.0)
    w.finish(_served(w, "p"))
    busy = _served(w, "q")
    last = w.ask("s")
    w.settle()
    assert w.served(last) == "a"
    w.finish(last)
    assert w.loaded == {("a", "q"), ("a", "s")}
    first, second = w.ask("p"), w.ask("r")
    w.wait(11, "unload")
    assert w.told("evicted")[-2:] == [("evicted", "s", "a"), ("evicted", "q", "a")]
    w.settle()
    assert (w.served(first), w.served(second)) == ("a", None)
    w.finish(busy)
    w.settle()

    assert w.served(second) == "a"


def test_an_unload_that_fails_gives_the_replica_back() -> None:
    w = world()
    w.finish(_served(w, "x"))
    ticket = w.ask("y")
    w.settle("unload")
    w.carry_out(w.ordered("unload")[0], UpstreamFailed("the node is confused"))
    w.settle("unload")
    again = w.ask("x")

    assert w.served(again) == "a"
    assert w.told("unload_failed") == [("unload_failed", "x", "a")]
    w.finish(again)
    w.wait(SETTLE_SECONDS + 1)
    assert w.served(ticket) == "a"


# what happens to nodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["unloading", "looking", "loading", "confirming"])
@pytest.mark.parametrize("end", [World.kill, World.remove])
def test_a_node_that_is_lost_in_the_middle_of_a_plan_is_followed_by_another(
    phase: str, end: Callable[[World, str], None]
) -> None:
    w = World(Machine("a", (6,)), Machine("b", (7,)), models=[X, Y])
    w.machines["b"].leaving = True
    w.show("b")
    if phase == "unloading":
        w.finish(_served(w, "y"))
    ticket = w.ask("x")
    w.settle(BEFORE[phase])
    if phase == "confirming":
        w.carry_out(w.ordered("look")[0])
        w.carry_out(w.ordered("load")[0])
    work = job(w, "x").work
    assert work is not None
    assert (work.phase, work.plan.node) == (phase, "a")
    w.revive("b")
    end(w, "a")
    w.settle()

    assert w.served(ticket) == "b"


@pytest.mark.parametrize("phase", ["unloading", "looking", "loading"])
def test_a_node_that_dies_alone_refuses_those_who_wait_and_serves_once_it_is_back(phase: str) -> None:
    w = world()
    if phase == "unloading":
        w.finish(_served(w, "y"))
    ticket = w.ask("x")
    w.settle(BEFORE[phase])
    w.kill("a")
    w.settle()
    assert w.error(ticket).code in ("no_healthy_node", "upstream_connection_error")
    w.revive("a")

    assert w.served(_served(w, "x")) == "a"


def test_a_node_that_restarts_is_asked_anew_what_models_need() -> None:
    w = world()
    w.finish(_served(w, "x"))
    w.kill("a")
    w.revive("a")
    w.ask("x")

    assert [order.node for order in w.ordered("estimate")] == ["a"]


def test_a_node_that_announced_its_restart_is_waited_for() -> None:
    w = world(restart_grace=30.0)
    w.machines["a"].leaving = True
    w.show("a")
    ticket = w.ask("x")
    w.wait(20)
    assert "a is restarting" in job(w, "x").held
    w.revive("a")
    w.settle()

    assert w.served(ticket) == "a"


def test_a_node_that_restarts_in_the_middle_of_a_load_loads_again() -> None:
    """It failed the load since it was going away, which is over."""
    w = world(restart_grace=30.0)
    ticket = w.ask("x")
    w.settle("load")
    w.machines["a"].leaving = True
    w.show("a")
    w.carry_out(w.ordered("load")[0], ShuttingDown("bye"))
    w.settle()
    w.wait(5)
    w.revive("a")
    w.settle()

    assert w.served(ticket) == "a"


def test_a_node_that_does_not_come_back_within_its_grace_is_waited_for_no_longer() -> None:
    w = world(restart_grace=30.0)
    w.machines["a"].leaving = True
    w.show("a")
    ticket = w.ask("x")
    w.wait(29)
    assert ticket not in w.fates
    w.wait(2)

    assert isinstance(w.error(ticket), NoHealthyNode)


def test_a_grace_does_not_begin_again_when_it_is_over() -> None:
    w = world(restart_grace=30.0)
    w.machines["a"].leaving = True
    w.show("a")
    w.wait(40)
    w.show("a")

    assert isinstance(w.error(w.ask("x")), NoHealthyNode)


def test_a_node_that_is_added_is_used_by_those_who_wait() -> None:
    w = world(drain_after=100.0)
    _served(w, "x")
    ticket = w.ask("y")
    w.wait(5)
    w.add(Machine("b"))
    w.settle()

    assert w.served(ticket) == "b"


def test_somebody_elses_load_is_followed() -> None:
    w = world()
    held = w.put("a", "x", state="loading")
    ticket = w.ask("x")
    w.wait(3)
    assert job(w, "x").held == "a is loading it"
    held.state = "ready"
    w.wait(1)

    assert w.served(ticket) == "a"
    assert w.told("load_started") == []


def test_when_somebody_elses_load_fails_we_load() -> None:
    w = world()
    held = w.put("a", "x", state="loading")
    ticket = w.ask("x")
    held.state = "failed"
    w.wait(1)

    assert w.served(ticket) == "a"
    assert w.told("load_started") == [("load_started", "x", "a")]


def test_what_is_found_loaded_is_used() -> None:
    w = world()
    w.put("a", "x")

    assert w.served(w.ask("x")) == "a"
    assert w.orders == []


def test_what_is_loaded_is_served_whether_the_catalogue_has_it_or_not() -> None:
    w = world()
    w.put("a", "stranger", 1)

    assert w.served(w.ask("stranger")) == "a"


def test_a_stranger_that_is_still_loading_is_waited_for() -> None:
    w = world()
    held = w.put("a", "stranger", 1, state="loading")
    ticket = w.ask("stranger")
    w.wait(2)
    assert ticket not in w.fates
    held.state = "failed"
    w.wait(1)

    assert isinstance(w.error(ticket), ModelNotReady)


# the catalogue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["estimate", "look"])
def test_a_model_that_leaves_the_catalogue_is_not_loaded_any_more(kept: OrderKind) -> None:
    w = world()
    ticket = w.ask("x")
    w.settle(kept)
    w.edit(Y)
    w.settle()

    assert isinstance(w.error(ticket), ModelNotFound)
    assert w.told("load_started") == []


def test_a_model_that_leaves_the_catalogue_while_it_loads_is_served_to_those_who_wait() -> None:
    w = world()
    ticket = w.ask("x")
    w.settle("load")
    w.edit(Y)
    w.settle()

    assert w.served(ticket) == "a"


@pytest.mark.parametrize("kept", ["unload", "look"])
def test_a_plan_is_made_anew_when_its_model_is_defined_otherwise(kept: OrderKind) -> None:
    w = pair(X, Y)
    w.put("a", "y")
    w.put("b", "z", 3)
    ticket = w.ask("x")
    w.settle(kept)
    work = job(w, "x").work
    assert work is not None
    assert work.plan.node == "a"
    w.edit(model("x", 4, nodes=("b",)), Y)
    w.settle()

    assert w.served(ticket) == "b"
    assert ("load_started", "x", "a") not in w.told("load_started")


def test_a_changed_model_is_asked_about_again() -> None:
    w = world()
    w.finish(_served(w, "x"))
    w.edit(model("x", 6), Y)
    w.ask("y")
    w.ask("x")

    assert [order.spec.vram_mb for order in w.ordered("estimate") if order.spec] == [5 << 10]


# the queue ------------------------------------------------------------------------------------------------------------


def test_the_queue_keeps_its_order() -> None:
    w = world()
    tickets = [w.ask("x") for _ in range(4)]
    w.settle()
    order = []
    while w.flights:
        (at,) = w.flights
        order.append(tickets.index(at))
        w.finish(at)

    assert order == [0, 1, 2, 3]


def test_nobody_overtakes_who_waits() -> None:
    w = world()
    first, second = _served(w, "x"), w.ask("x")
    w.finish(first)
    third = w.ask("x")

    assert (w.served(second), w.served(third)) == ("a", None)


def test_the_queue_is_bounded() -> None:
    w = world(queue_depth=2)
    _served(w, "x")
    tickets = [w.ask("x") for _ in range(3)]

    assert [ticket in w.fates for ticket in tickets] == [False, False, True]
    assert isinstance(w.error(tickets[2]), Overloaded)


def test_leaving_frees_the_place() -> None:
    w = world(queue_depth=1)
    _served(w, "x")
    w.leave(w.ask("x"))

    assert w.ask("x") not in w.fates


def test_who_waited_for_too_long_hears_why_and_when_to_come_back() -> None:
    w = world(queue_seconds=20.0, drain_after=100.0)
    _served(w, "x")
    ticket = w.ask("y")
    w.wait(19)
    assert ticket not in w.fates
    w.wait(2)

    error = w.error(ticket)
    assert isinstance(error, Overloaded)
    assert "what would have to go may go only later" in str(error)
    assert error.retry_after_seconds is not None
    assert w.reconciler.job("y") is None


def test_nobody_is_late_while_a_replica_is_being_loaded_for_it() -> None:
    w = world(queue_seconds=20.0)
    ticket = w.ask("x")
    w.wait(60, "load")
    assert ticket not in w.fates
    w.settle()

    assert w.served(ticket) == "a"


def test_who_came_back_to_the_end_of_the_queue_is_late_by_when_it_arrived() -> None:
    w = world(queue_seconds=20.0)
    _served(w, "x")
    w.wait(15)
    front = w.ask("x")
    again = Ticket("x", START)
    w.reconciler.ask(again, w.now)
    w.wait(6)

    assert isinstance(w.error(again), Overloaded)
    assert front not in w.fates


def test_who_avoids_what_is_free_does_not_hold_up_those_behind() -> None:
    w = world()
    busy = _served(w, "x")
    picky, plain = w.ask("x", avoid="a"), w.ask("x")
    w.settle()
    w.finish(busy)

    assert w.served(plain) == "a"
    assert w.served(picky) is None


def test_who_avoids_a_node_gets_a_replica_on_another() -> None:
    w = pair()
    w.put("a", "x")
    ticket = w.ask("x", avoid="a")
    w.settle()

    assert w.served(ticket) == "b"


def test_who_avoids_every_node_is_refused_and_nobody_else_is() -> None:
    w = world()
    picky, plain = w.ask("x", avoid="a"), w.ask("x")
    w.settle()

    assert isinstance(w.error(picky), NoHealthyNode)
    assert w.served(plain) == "a"


def test_who_cannot_use_the_replica_that_comes_gets_another() -> None:
    w = pair()
    plain = w.ask("x")
    picky = w.ask("x", avoid="a")
    w.settle()

    assert (w.served(plain), w.served(picky)) == ("a", "b")


def test_a_job_for_one_who_avoids_a_node_keeps_its_age_when_that_node_is_seen() -> None:
    """Else nothing would ever be drained for it."""
    w = pair(drain_after=10.0)
    w.put("b", "y", others=1)
    w.put("a", "x")
    ticket = w.ask("x", avoid="a")
    for _ in range(12):
        w.wait(1)
        w.finish(w.ask("x"))
        w.machines["a"].held["x"].others = int(w.now) % 2
        w.show("a")
    w.settle()

    assert w.told("evicted") == [("evicted", "y", "b")]
    assert w.served(ticket) == "b"


def test_a_waiting_client_is_told_what_it_waits_for() -> None:
    w = world(drain_after=100.0)
    busy = _served(w, "x")
    first, second = w.ask("y"), w.ask("y")
    w.wait(3)
    assert w.reconciler.comment(second, w.now) == (
        "y waits: a: what would have to go may go only later, 3s, place 2 of 2"
    )
    w.finish(busy)
    w.settle("unload")
    assert w.reconciler.comment(second, w.now) == "loading y on a: making room, 3s, place 2 of 2"
    w.settle("load")
    assert w.reconciler.comment(second, w.now) == "loading y on a: starting, 3s, place 2 of 2"
    w.settle()
    assert w.served(first) == "a"
    assert w.reconciler.comment(second, w.now).startswith("waiting: place 1 of 1")


# chores ---------------------------------------------------------------------------------------------------------------


def test_a_burst_opens_another_replica_where_room_is_free() -> None:
    w = pair(model("x", 5, max_replicas=2), Y, spread_after=3.0)
    _served(w, "x")
    ticket = w.ask("x")
    w.wait(2)
    assert len(w.loaded) == 1
    w.wait(3)

    assert w.loaded == {("a", "x"), ("b", "x")}
    assert w.served(ticket) is not None


def test_a_burst_displaces_nobody() -> None:
    w = pair(model("x", 5, max_replicas=2), Y, spread_after=3.0)
    w.put("b", "y")
    _served(w, "x")
    w.ask("x")
    w.wait(30)

    assert w.loaded == {("a", "x"), ("b", "y")}


def test_a_burst_displaces_nobody_even_when_its_first_load_fails() -> None:
    w = World(Machine("a"), Machine("b"), Machine("c"), models=[model("x", 5, max_replicas=2), Y], spread_after=3.0)
    w.put("a", "x")
    w.put("b", "y")
    w.ask("x")
    w.ask("x")
    w.wait(4, "load")
    (order,) = w.ordered("load")
    assert order.node == "c"
    w.machines["c"].strangers[0] = 8 * GIB
    w.carry_out(order)
    w.wait(20)

    assert w.loaded == {("a", "x"), ("b", "y")}


def test_a_burst_stops_at_max_replicas() -> None:
    w = World(Machine("a"), Machine("b"), Machine("c"), models=[model("x", 5, max_replicas=2)], spread_after=3.0)
    _served(w, "x")
    for _ in range(5):
        w.ask("x")
    w.wait(30)

    assert len(w.loaded) == 2


def test_what_is_to_be_resident_is_loaded_unasked() -> None:
    w = pair(model("x", 5, min_resident=2, max_replicas=2), Y)
    w.wait(2)

    assert w.loaded == {("a", "x"), ("b", "x")}


def test_what_is_to_be_resident_comes_back_once_what_displaced_it_is_idle_for_long() -> None:
    w = world(model("x", 5, min_resident=1), Y, restore_after=60.0)
    w.wait(1)
    w.finish(_served(w, "y"))
    w.wait(55)
    assert w.loaded == {("a", "y")}
    w.wait(10)

    assert w.loaded == {("a", "x")}


def test_a_load_that_nobody_asked_for_is_not_tried_without_a_pause() -> None:
    """A broken file is not read twice a second for ever."""
    w = world(model("x", 5, min_resident=1))
    for _ in range(120):
        w.wait(0.5, "load")
        for order in w.ordered("load"):
            w.carry_out(order, LoadFailed("the file is damaged"))

    assert 1 < len(w.told("load_started")) <= 5


def test_a_request_does_not_wait_for_the_pause_of_a_chore() -> None:
    w = world(model("x", 5, min_resident=1))
    w.wait(1, "load")
    w.carry_out(w.ordered("load")[0], LoadFailed("the disk was slow"))

    assert w.served(_served(w, "x")) == "a"


def test_a_request_for_what_is_restored_may_do_what_requests_may() -> None:
    """The plan of the chore is dropped, and those who wait by then have the right to displace what is idle."""
    w = world(model("x", 5, min_resident=1), Y, restore_after=1000.0)
    w.wait(1, "look")
    ticket = w.ask("x")
    w.machines["a"].held["y"] = Held({0: 5 * GIB}, last_used=w.now)
    w.settle()
    w.wait(2)

    assert w.told("plan_dropped") == [("plan_dropped", "x", "a")]
    assert w.served(ticket) == "a"


def test_what_nobody_uses_goes_after_its_ttl_down_to_min_resident() -> None:
    w = pair(model("x", 5, ttl=30, min_resident=1, max_replicas=2))
    w.put("a", "x")
    w.put("b", "x", last_used=START + 5)
    w.wait(29)
    assert len(w.loaded) == 2
    w.wait(60)

    assert w.loaded == {("b", "x")}


def test_an_unload_that_nobody_waits_for_and_that_fails_is_not_tried_without_a_pause() -> None:
    w = world(model("x", 5, ttl=30))
    w.put("a", "x")
    w.wait(29)
    for _ in range(60):
        w.wait(1, "unload")
        for order in w.ordered("unload"):
            w.carry_out(order, UpstreamFailed("the node is confused"))

    assert 1 < len(w.told("unload_failed")) <= 3


@pytest.mark.parametrize("guard", [{"pinned": True}, {"pinned_on": ("a",)}])
def test_what_is_pinned_does_not_go_by_its_ttl(guard: dict[str, Any]) -> None:
    w = world(model("x", 5, ttl=30, **guard))
    w.put("a", "x")
    w.wait(60)

    assert w.loaded == {("a", "x")}


def test_what_has_work_does_not_go_by_its_ttl() -> None:
    w = world(model("x", 5, ttl=30))
    busy = _served(w, "x")
    w.wait(60)
    assert w.loaded == {("a", "x")}
    w.finish(busy)
    w.wait(31)

    assert w.loaded == set()


def test_what_is_let_go_of_goes_where_nobody_uses_it() -> None:
    w = pair(model("x", 5, max_replicas=2), Z)
    w.put("a", "x")
    w.put("b", "x")
    w.put("b", "z", 1)
    stays = w.served(w.ask("x"))
    w.reconciler.let_go("x", "done", w.now)
    w.settle()

    assert w.loaded == {(stays, "x"), ("b", "z")}
    assert w.told("unloaded") == [("unloaded", "x", "b" if stays == "a" else "a")]


def test_what_is_let_go_of_is_given_no_more_work() -> None:
    w = world()
    w.put("a", "x")
    w.reconciler.let_go("x", "done", w.now)
    ticket = w.ask("x")
    assert w.served(ticket) is None
    w.settle()

    assert w.served(ticket) == "a"
    assert w.told("unloaded", "load_finished") == [("unloaded", "x", "a"), ("load_finished", "x", "a")]


def test_what_is_let_go_of_goes_down_to_min_resident_the_longest_idle_first() -> None:
    w = pair(model("x", 5, min_resident=1, max_replicas=2))
    w.put("a", "x", last_used=START + 5)
    w.put("b", "x")
    w.reconciler.let_go("x", "done", w.now)
    w.settle()

    assert w.loaded == {("a", "x")}


def test_a_busy_replica_is_one_of_those_that_are_to_be_resident() -> None:
    w = pair(model("x", 5, min_resident=1, max_replicas=2))
    w.put("a", "x")
    w.put("b", "x")
    busy = w.served(w.ask("x"))
    w.reconciler.let_go("x", "done", w.now)
    w.settle()

    assert w.loaded == {(busy, "x")}


@pytest.mark.parametrize("guard", [{"pinned": True}, {"pinned_on": ("a",)}, {"min_resident": 1}])
def test_what_is_pinned_or_resident_is_not_let_go_of(guard: dict[str, Any]) -> None:
    w = world(model("x", 5, **guard))
    w.put("a", "x")
    w.reconciler.let_go("x", "done", w.now)
    w.reconciler.let_go("unheard-of", "done", w.now)
    w.settle()

    assert w.loaded == {("a", "x")}


def test_a_drained_node_keeps_serving_until_its_models_are_elsewhere() -> None:
    w = pair()
    w.put("a", "x")
    w.machines["a"].drained = True
    w.show("a")
    w.wait(1, "load")
    assert w.served(w.ask("x")) == "a"
    w.settle()
    for ticket in list(w.flights):
        w.finish(ticket)
    w.wait(1)

    assert w.loaded == {("b", "x")}
    assert w.served(w.ask("x")) == "b"


def test_two_drained_nodes_do_not_each_count_on_the_other() -> None:
    w = World(Machine("a"), Machine("b"), Machine("c", (2,)), models=[X])
    for name in "ab":
        w.put(name, "x")
        w.machines[name].drained = True
        w.show(name)
    w.wait(5)

    assert w.loaded == {("a", "x"), ("b", "x")}


def test_a_node_back_from_a_drain_is_used_again() -> None:
    w = world()
    w.machines["a"].drained = True
    w.show("a")
    assert isinstance(w.error(_asked(w, "x")), NoHealthyNode)
    w.machines["a"].drained = False
    w.show("a")

    assert w.served(_served(w, "x")) == "a"


def _asked(w: World, name: str) -> Ticket:
    ticket = w.ask(name)
    w.settle()
    return ticket


def test_a_worn_node_is_renewed_one_replica_at_a_time_and_then_counted_anew() -> None:
    w = World(Machine("a", (9,)), models=[model(name, 3) for name in "pqrs"], defrag_after_cycles=1)
    for name in "pqrs":
        w.finish(_served(w, name))
        w.wait(1)
    before = len(w.told("load_started"))
    kept = set(w.loaded)
    for _ in range(int(RENEW_IDLE_SECONDS * 4)):
        w.wait(1)
        assert len(kept - w.loaded) <= 1
    assert w.loaded == kept
    assert sorted(name for _, name, _ in w.told("load_started")[before:]) == sorted(name for _, name in kept)
    w.wait(200)

    assert len(w.told("load_started")) == before + len(kept)


def test_a_busy_node_is_not_renewed() -> None:
    w = World(Machine("a", (6,)), models=[model(name, 3) for name in "pqr"], defrag_after_cycles=1)
    for name in "pqr":
        w.finish(_served(w, name))
    w.ask("r")
    w.wait(100)

    assert len(w.told("load_started")) == 3


def test_what_the_loop_does_is_noted_with_its_plan() -> None:
    w = World(Machine("a"), Machine("b", (2,)), models=[X, Y])
    w.finish(_served(w, "x"))
    w.finish(_served(w, "y"))
    kinds = [event.kind for event in w.events]
    planned = [event for event in w.events if event.kind == "planned"]

    assert kinds == [
        *("planned", "load_started", "load_finished"),
        *("planned", "evicted", "load_started", "load_finished"),
    ]
    assert planned[1].details["cause"] == "request"
    assert planned[1].details["plan"]["evicts"] == ["x"]
    assert list(w.reconciler.events) == w.events


def test_a_replica_that_is_not_seen_after_its_load_is_not_waited_for_for_ever() -> None:
    w = world()
    ticket = w.ask("x")
    w.settle("load")
    (order,) = w.ordered("load")
    w.begin(order)
    w.carry_out(order)
    del w.machines["a"].held["x"]
    w.wait(CONFIRM_SECONDS + 1)

    assert isinstance(w.error(ticket), ModelNotReady)
