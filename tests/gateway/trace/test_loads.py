"""A request that waited for a load hears where the time of the load went."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.fleet.work import Event
from cortex.gateway.trace.loads import Decided, Load, loads_for

HELD = {"held_seconds": 2.0, "held": "the nodes are being asked what it needs"}
STAGES = [{"stage": "download", "seconds": 60.0}, {"stage": "weights", "seconds": 40.0}]


def decided(at: float, kind: str, model: str = "big", node: str = "a", reason: str = "", **details: Any) -> Decided:
    return Decided(at, Event(at, kind, model, node, reason, details))


def cold_start(**finished: Any) -> list[Decided]:
    plan = {"evicts": ["small"]}
    return [
        decided(12, "planned", reason="fits once small is gone", cause="request", plan=plan, **HELD),
        decided(12, "evicted", "small"),
        decided(20, "load_started", unload_seconds=5.0, memory_seconds=3.0),
        decided(30, "load_started", "other"),
        decided(120, "load_finished", seconds=100.0, stages=STAGES, **finished),
    ]


def steps(load: Load) -> list[tuple[str, float, float]]:
    return [(step.name, step.at, step.seconds) for step in load.steps]


def test_every_second_of_a_cold_start_is_accounted_for() -> None:
    (load,) = loads_for("big", 10.0, 121.0, cold_start())

    assert steps(load) == [
        ("held", 0, 2),
        ("eviction", 2, 5),
        ("memory", 7, 3),
        ("load", 10, 100),
        ("load: download", 10, 60),
        ("load: weights", 70, 40),
    ]
    assert [step.note for step in load.steps[-2:]] == ["60% of the load", "40% of the load"]
    assert (load.node, load.evicted) == ("a", ["small"])
    assert (load.failed, load.unfinished) == ("", "")


def test_a_load_that_another_had_asked_for_began_before_the_request() -> None:
    (load,) = loads_for("big", 50.0, 121.0, cold_start())

    assert load.at == 10 - 50
    assert load.seconds == 110


def test_a_load_that_was_over_before_is_not_what_it_waited_for() -> None:
    assert loads_for("big", 121.0, 130.0, cold_start()) == []


def test_a_client_that_leaves_earlier_hears_how_far_it_was() -> None:
    (load,) = loads_for("big", 10.0, 40.0, cold_start()[:-1])

    assert load.unfinished
    assert steps(load)[-1] == ("load", 10, 20)


def test_a_client_that_leaves_while_room_is_made_sees_that() -> None:
    (load,) = loads_for("big", 10.0, 15.0, cold_start()[:2])

    assert steps(load)[-1] == ("making room", 2, 3)


@pytest.mark.parametrize(("kind", "said"), [("load_failed", "failed: bad file"), ("plan_dropped", "dropped: bad file")])
def test_a_load_that_came_to_nothing_says_what_of_and_the_next_one_follows(kind: str, said: str) -> None:
    again = [decided(60, "planned", node="b", cause="request", plan={}), decided(61, "load_started", node="b")]
    lost, found = loads_for("big", 10.0, 90.0, [*cold_start()[:-1], decided(50, kind, reason="bad file"), *again])

    assert (lost.node, lost.failed) == ("a", said)
    assert (found.node, found.failed) == ("b", "")
