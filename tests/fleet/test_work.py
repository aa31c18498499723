from __future__ import annotations

from typing import Any

import pytest

from cortex.fleet.devices import Room
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.plan import Plan
from cortex.fleet.view import NodeView, ReplicaView
from cortex.fleet.work import Job, Phase, Work, describe_plan, doing, missing_bytes

MIB = 1 << 20


def work(model: str, mib: int, phase: Phase = "looking", device: int = 0) -> Work:
    plan = Plan(model, "a", (device,), {device: mib * MIB})
    return Work(plan, Job(model, "request", 0.0, 100), 0.0, phase, set(), 0.0)


def node(*free_mib: int, replicas: tuple[ReplicaView, ...] = ()) -> NodeView:
    rooms = tuple(Room(index, "cuda", "gpu", mib * MIB + FLOOR_BYTES) for index, mib in enumerate(free_mib))
    return NodeView("a", "", True, rooms=rooms, replicas=replicas)


@pytest.mark.parametrize(
    ("needed", "free", "said"),
    [(100, 100, ""), (100, 150, ""), (100, 99, "1 MiB are missing on device 0"), (100, -300, "400 MiB are missing")],
)
def test_the_floor_stays_free(needed: int, free: int, said: str) -> None:
    mine = work("m", needed)

    assert missing_bytes(mine, [mine], node(free)).startswith(said)
    assert bool(missing_bytes(mine, [mine], node(free))) is bool(said)


def test_a_device_that_is_gone_has_nothing() -> None:
    mine = work("m", 100, device=3)

    assert missing_bytes(mine, [mine], node(999)) == "100 MiB are missing on device 3"


@pytest.mark.parametrize(
    ("other", "is_earlier", "counts"),
    [
        (work("o", 60, "unloading"), True, True),
        (work("o", 60, "looking"), True, True),
        (work("o", 60, "loading"), True, True),
        (work("o", 60, "unloading"), False, False),
        (work("o", 60, "looking"), False, False),
        (work("o", 60, "loading"), False, True),
        (work("o", 60, "loading", device=1), True, False),
    ],
)
def test_what_was_promised_before_or_loads_already_is_not_there_to_be_had(
    other: Work, is_earlier: bool, counts: bool
) -> None:
    """A later plan counts on what its own victims leave."""
    mine = work("m", 100)
    works = [other, mine] if is_earlier else [mine, other]

    assert missing_bytes(mine, works, node(100, 100)) == ("60 MiB are missing on device 0" if counts else "")


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        ({"state": "loading", "is_reserved": True}, False),
        ({"state": "ready"}, False),
        ({"state": "loading"}, True),
        ({"state": "failed"}, True),
    ],
)
def test_what_the_node_has_set_aside_itself_is_not_counted_twice(seen: dict[str, Any], counts: bool) -> None:
    other, mine = work("o", 60, "loading"), work("m", 100)
    there = node(100, replicas=(ReplicaView("o", "a", **seen),))

    assert bool(missing_bytes(mine, [other, mine], there)) is counts


def test_each_device_that_is_short_is_named() -> None:
    plan = Plan("m", "a", (0, 1), {0: 100 * MIB, 1: 50 * MIB})
    mine = Work(plan, Job("m", "request", 0.0, 100), 0.0, "looking", set(), 0.0)

    assert missing_bytes(mine, [mine], node(40, 49)) == (
        "60 MiB are missing on device 0; 1 MiB are missing on device 1"
    )


def test_a_plan_is_told_in_plain_values() -> None:
    plan = Plan(
        "m",
        "a",
        (0,),
        {0: 5},
        victims=(("a", "x"), ("a", "y")),
        drains=(("a", "y"),),
        cost_seconds=1.23456,
        reason="so",
    )

    assert describe_plan(plan) == {
        "node": "a",
        "devices": [0],
        "bytes_by_device": {0: 5},
        "evicts": ["x", "y"],
        "drains": ["y"],
        "cost_seconds": 1.235,
        "blind": False,
        "reason": "so",
    }


@pytest.mark.parametrize(
    ("phase", "progress", "said"),
    [
        ("unloading", "", "making room"),
        ("looking", "", "reading memory"),
        ("loading", "", "starting"),
        ("loading", "40 %", "40 %"),
        ("confirming", "40 %", "loaded"),
    ],
)
def test_a_load_is_told_with_how_far_it_is(phase: Phase, progress: str, said: str) -> None:
    job = Job("m", "request", 0.0, 100, work=work("m", 100, phase))
    replica = ReplicaView("m", "a", "loading", progress=progress)

    assert doing(job, {("a", "m"): replica}.get) == f"loading m on a: {said}"


def test_a_job_without_a_plan_is_told_with_what_holds_it() -> None:
    assert doing(Job("m", "request", 0.0, 100, held="a is full"), lambda _: None) == "m waits: a is full"
