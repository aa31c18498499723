"""What is said of a model must be what would be done for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.fleet.explaining import explain_model
from fake_world import GIB, Machine, World, model

X, Y = model("x", 5), model("y", 5)


def world(*specs: Any, **policy: Any) -> World:
    return World(Machine("a"), models=specs or (X, Y), **policy)


def explained(w: World, name: str) -> dict[str, Any]:
    loop = w.reconciler
    said = explain_model(name, loop.situation(w.now), loop.doors, loop.job(name))
    assert json.loads(json.dumps(said)) is not None
    return said


def learn_need(w: World, name: str) -> None:
    for node in w.machines:
        w.estimate(w.catalogue[name], node)
    w.settle()


def decision(w: World, name: str) -> tuple[str, str]:
    said = explained(w, name)
    return said["decision"], said["summary"]


def test_what_is_ready_is_served_by_the_replica_that_would_be_chosen() -> None:
    w = World(Machine("a"), Machine("b", slots=2), models=[X])
    w.put("a", "x")
    w.put("b", "x")
    w.wait(3)
    w.ask("x", avoid="b")
    said = explained(w, "x")

    assert (said["decision"], said["summary"][:12]) == ("serve", "b serves it:")
    assert [(r["node"], r["in_flight"], r["slots"], r["idle_seconds"]) for r in said["replicas"]] == [
        ("b", 0, 2, 3.0),
        ("a", 1, 1, 0.0),
    ]
    assert w.served(w.ask("x")) == "b"


def test_where_every_slot_is_taken_a_request_queues() -> None:
    w = world()
    w.put("a", "x")
    w.ask("x")
    w.ask("x")

    assert decision(w, "x") == ("queue", "every replica is full: it waits for the first slot that is free")
    assert explained(w, "x")["waiting"] == 1


def test_a_cold_model_is_loaded_where_it_fits() -> None:
    w = world()
    learn_need(w, "x")

    assert decision(w, "x") == ("load", "it is loaded on a: fits beside what is there")


def test_a_cold_model_is_loaded_after_the_victims_that_are_named() -> None:
    w = world()
    w.put("a", "y")
    learn_need(w, "x")
    said = explained(w, "x")

    assert said["summary"] == "it is loaded on a after unloading y: fits once y is gone"
    assert said["candidates"][0]["plan"] == {
        **{"node": "a", "devices": [0], "bytes_by_device": {0: 5 * GIB}, "evicts": ["y"], "drains": []},
        **{"cost_seconds": pytest.approx(40.0, abs=20.0), "blind": False, "reason": "fits once y is gone"},
    }
    w.ask("x")
    w.settle()
    assert w.loaded == {("a", "x")}


def test_a_cold_model_waits_for_what_is_busy() -> None:
    w = world()
    w.put("a", "y")
    w.ask("y")
    learn_need(w, "x")

    assert decision(w, "x") == ("wait", "it waits: a: what would have to go may go only later")


def test_a_cold_model_is_refused_where_nothing_may_go_for_it() -> None:
    w = world(X, model("y", 5, pinned=True))
    w.put("a", "y")
    learn_need(w, "x")
    said = explained(w, "x")
    (candidate,) = said["candidates"]

    assert said["decision"] == "refuse"
    assert said["summary"] == "no node can serve it: a: what would have to go is pinned or of a higher class"
    assert (candidate["node"], candidate["verdict"], candidate["plan"]) == ("a", "never", None)
    assert candidate["obstacles"][1] == "y has 5120 MiB there and is pinned there"


def test_without_a_node_a_model_is_refused() -> None:
    assert decision(World(models=[X]), "x") == ("refuse", "no node can serve it: there is no node")


def test_what_is_neither_known_nor_loaded_is_refused() -> None:
    said = explained(world(), "made-up")

    assert (said["decision"], said["catalogued"], said["priority"]) == ("refuse", False, None)
    assert "does not exist" in said["summary"]


def test_what_is_on_its_way_is_told_with_how_far_it_is() -> None:
    w = world()
    w.put("a", "y")
    w.ask("x")
    w.settle("unload")
    w.now += 2
    said = explained(w, "x")

    assert (said["decision"], said["summary"]) == ("wait", "a replica is on its way: fits once y is gone")
    assert (said["job"]["cause"], said["job"]["phase"], said["job"]["seconds"]) == ("request", "unloading", 2.0)
    assert said["job"]["plan"]["evicts"] == ["y"]


def test_what_is_held_up_is_told_with_what_holds_it_and_what_it_avoids() -> None:
    w = World(Machine("a"), Machine("b"), models=[X, Y])
    w.put("a", "y")
    w.ask("y")
    w.ask("x", avoid="b")
    w.settle()
    said = explained(w, "x")

    assert said["decision"] == "wait"
    assert said["job"]["held"] == "a: what would have to go may go only later"
    assert list(said["job"]["avoids"]) == ["b"]
    assert said["job"]["plan"] is None
