"""An operator's orders: what they would come to, and that they come to it."""

from __future__ import annotations

import pytest

from cortex.core.errors import Conflict, RouteNotFound
from cortex.core.model_spec import ModelSpec
from cortex.fleet.orders import drain_moves, load_plan, unloading
from cortex.fleet.situation import Situation
from fake_world import Machine, World, model

X, Y, Z = model("x", 5), model("y", 5), model("z", 3)


def pair(*specs: ModelSpec) -> World:
    """Nodes `a` of 8 GiB and `b` of 7, and x, which takes 5, on `a`; what everything needs is known."""
    w = World(Machine("a"), Machine("b", (7,)), models=specs or (X, Y, Z))
    w.put("a", "x")
    for spec in specs or (X, Y, Z):
        w.reconciler.inquires(spec.id)
    w.settle()
    return w


def moment(w: World) -> Situation:
    return w.reconciler.situation(w.now)


def test_a_load_goes_where_it_is_cheapest_or_where_it_is_told_to() -> None:
    w = pair()

    assert (load_plan(Y, None, moment(w)).node, load_plan(Y, None, moment(w)).victims) == ("b", ())
    assert load_plan(Y, "a", moment(w)).victims == (("a", "x"),)


def test_a_load_is_carried_out_as_planned_though_nobody_waits_for_it() -> None:
    w = pair()
    w.reconciler.carry_out(load_plan(Y, "a", moment(w)), w.now)
    w.settle()

    assert set(w.machines["a"].held) == {"y"}
    assert w.told("planned", "evicted", "load_finished") == [
        ("planned", "y", "a"),
        ("evicted", "x", "a"),
        ("load_finished", "y", "a"),
    ]
    assert w.reconciler.job("y") is None


def test_a_busy_replica_is_drained_for_an_order_and_the_plan_says_so() -> None:
    w = pair()
    ticket = w.ask("x")
    w.wait(60)

    assert load_plan(Y, "a", moment(w)).drains == (("a", "x"),)
    w.finish(ticket)


def test_a_second_order_for_what_is_on_its_way_is_refused() -> None:
    w = pair()
    plan = load_plan(Y, None, moment(w))
    w.reconciler.carry_out(plan, w.now)

    with pytest.raises(Conflict, match="on its way already"):
        w.reconciler.carry_out(plan, w.now)


def test_an_order_serves_those_who_wait_for_the_model_too() -> None:
    w = pair(X, model("y", 5, pinned_on=("a",)))
    w.reconciler.unload(("a", "x"), w.now)
    ticket = w.ask("y")
    w.settle()

    assert w.served(ticket) == "a"


@pytest.mark.parametrize("node", ["a", None])
def test_what_has_no_place_now_is_refused_with_the_reason(node: str | None) -> None:
    w = pair(model("x", 5, pinned=True), model("big", 8))
    with pytest.raises(Conflict) as caught:
        load_plan(w.catalogue["big"], node, moment(w))

    assert caught.value.code == "no_place"
    assert "pinned" in caught.value.message


def test_orders_name_nodes_that_there_are() -> None:
    w = pair()
    for order in (
        lambda: load_plan(Y, "c", moment(w)),
        lambda: unloading("c", "x", moment(w)),
        lambda: drain_moves("c", moment(w)),
    ):
        with pytest.raises(RouteNotFound, match=r"there is no node 'c'; there are a, b"):
            order()


def test_an_unload_tells_what_it_interrupts_and_what_follows() -> None:
    w = pair(model("x", 5, pinned=True, min_resident=1), Y)
    ticket = w.ask("x")
    found = unloading("a", "x", moment(w))

    assert (found.under_way, found.ready_elsewhere) == (1, ())
    assert [caution.split(":")[0] for caution in found.cautions] == [
        "it is pinned",
        "min_resident = 1",
        "no other replica is ready",
    ]
    w.finish(ticket)


def test_an_unload_of_one_of_two_costs_nobody_anything() -> None:
    w = pair()
    w.put("b", "x")

    assert unloading("a", "x", moment(w)).cautions == ()
    assert unloading("a", "x", moment(w)).ready_elsewhere == ("b",)


def test_what_is_not_there_or_comes_or_goes_cannot_be_unloaded() -> None:
    w = pair()
    w.put("b", "z", state="loading")
    with pytest.raises(RouteNotFound):
        unloading("b", "x", moment(w))
    with pytest.raises(Conflict, match="being loaded"):
        unloading("b", "z", moment(w))
    w.reconciler.unload(("a", "x"), w.now)
    with pytest.raises(Conflict, match="on its way out"):
        unloading("a", "x", moment(w))


def test_an_unload_that_is_ordered_is_done() -> None:
    w = pair()
    w.reconciler.unload(("a", "x"), w.now)
    w.settle()

    assert w.machines["a"].held == {}
    assert w.told("unloaded") == [("unloaded", "x", "a")]


def test_a_drain_tells_where_everything_goes_and_counts_no_byte_twice() -> None:
    """`b` has 7 GiB: room for one of the two that take 5."""
    w = World(Machine("a", (12,)), Machine("b", (7,)), models=(X, Y))
    w.put("a", "x")
    w.put("a", "y")
    for spec in (X, Y):
        w.reconciler.inquires(spec.id)
    w.settle()
    x, y = drain_moves("a", moment(w))

    assert (x.model, x.to) == ("x", "b")
    assert (y.model, y.to) == ("y", None)
    assert "stays and serves on" in y.reason


def test_a_drain_tells_of_what_is_ready_elsewhere_and_of_strangers() -> None:
    w = pair()
    w.put("b", "x")
    w.put("a", "stranger", 1)
    x, stranger = drain_moves("a", moment(w))

    assert (x.to, x.plan) == ("b", None)
    assert (stranger.to, stranger.reason) == (None, "is not in the catalogue, so it stays and serves on")
