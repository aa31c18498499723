"""Chores, as plain values in and out; that they are done, and what comes of them, is tested with the run loop."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.core.model_spec import ModelSpec
from cortex.fleet.situation import Commitment, Policy, Situation
from cortex.fleet.tend import RENEW_IDLE_SECONDS, Chore, Renew, Unload, Want, chores, present
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot

NOW = 1000.0


def replica(spot: str, idle: float = 0.0, **changed: Any) -> ReplicaView:
    """Return a replica at *spot*, which is two letters: the node's and the model's."""
    return ReplicaView(spot[1], spot[0], **{"state": "ready", "last_used": NOW - idle, **changed})


def moment(*replicas: ReplicaView, specs: tuple[ModelSpec, ...] = (), drained: str = "", **changed: Any) -> Situation:
    names = sorted({found.node for found in replicas} | set("ab"))
    nodes = [
        NodeView(name, "", True, drained=name in drained, replicas=tuple(r for r in replicas if r.node == name))
        for name in names
    ]
    return Situation(NOW, FleetView.of(nodes), {spec.id: spec for spec in specs}, **changed)


def due(
    situation: Situation,
    since: dict[str, float] | None = None,
    cycles: dict[str, int] | None = None,
    renewed: set[Spot] | None = None,
) -> list[Chore]:
    return chores(situation, waiting_since=since or {}, cycles=cycles or {}, renewed=renewed or set())


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(id="m", **fields)


@pytest.mark.parametrize(
    ("waited", "spread", "replicas", "wanted"),
    [
        (3.0, 2, ["am"], True),
        (2.9, 2, ["am"], False),
        (3.0, 1, ["am"], False),
        (3.0, 2, ["am", "bm"], False),
        (3.0, 2, [], False),
    ],
)
def test_a_queue_that_stands_wants_another_replica(
    waited: float, spread: int, replicas: list[str], wanted: bool
) -> None:
    """A model without any replica is a cold start, which is no chore."""
    there = moment(*map(replica, replicas), specs=(spec(max_replicas=spread),), policy=Policy(spread_after=3.0))

    found = due(there, since={"m": NOW - waited})

    assert found == ([Want("m", "spread", "requests have waited for 3 s")] if wanted else [])


def test_what_is_on_its_way_counts_and_what_leaves_does_not() -> None:
    coming = {"b": (Commitment("m", {}),)}
    there = moment(
        replica("am"), replica("bm", state="loading"), replica("cm"), leaving={("c", "m")}, commitments=coming
    )

    assert present("m", there) == 2


def test_what_is_to_be_resident_is_wanted_until_it_is_there() -> None:
    resident = spec(min_resident=2, max_replicas=2)

    assert due(moment(replica("am"), specs=(resident,))) == [
        Want("m", "restore", "1 of min_resident = 2 are loaded"),
    ]
    assert due(moment(replica("am"), replica("bm"), specs=(resident,))) == []


def test_a_drained_node_is_emptied_once_its_models_are_ready_elsewhere() -> None:
    alone = moment(replica("am"), specs=(spec(),), drained="a")
    both = moment(replica("am"), replica("bm"), specs=(spec(),), drained="a")
    coming = moment(replica("am"), replica("bm", state="loading"), specs=(spec(),), drained="a")

    assert due(alone) == due(coming) == [Want("m", "move", "a is drained")]
    assert due(both) == [Unload(("a", "m"), "a is drained, and m is ready elsewhere", "moved")]


def test_drained_nodes_do_not_count_on_one_another() -> None:
    there = moment(replica("am"), replica("bm"), specs=(spec(),), drained="ab")

    assert not any(isinstance(chore, Unload) for chore in due(there))


def test_what_cannot_be_loaded_elsewhere_stays_on_a_drained_node() -> None:
    assert due(moment(replica("am"), drained="a")) == []


@pytest.mark.parametrize(
    ("fields", "moments", "gone"),
    [
        ({"ttl": 60}, {}, ["b", "a"]),
        ({"ttl": 80}, {}, ["b"]),
        ({}, {}, []),
        ({"ttl": 60, "min_resident": 1}, {}, ["b"]),
        ({"ttl": 60, "pinned": True}, {}, []),
        ({"ttl": 60, "pinned_on": ("b",)}, {}, ["a"]),
        ({"ttl": 60}, {"flights": {("b", "m"): 1}}, ["a"]),
        ({"ttl": 60}, {"foreign": {("b", "m"): 1}}, ["a"]),
        ({"ttl": 60}, {"used": {("b", "m"): NOW - 5}}, ["a"]),
        ({"ttl": 60}, {"leaving": {("b", "m")}}, ["a"]),
    ],
)
def test_what_idled_for_its_ttl_goes_the_longest_idle_first(
    fields: dict[str, Any], moments: dict[str, Any], gone: list[str]
) -> None:
    there = moment(replica("am", idle=70), replica("bm", idle=90), specs=(spec(**fields),), **moments)

    assert [chore.spot[0] for chore in due(there) if isinstance(chore, Unload)] == gone


IDLE = RENEW_IDLE_SECONDS


@pytest.mark.parametrize(
    ("cycles", "renewed", "others", "spot"),
    [
        (3, set(), {}, ("a", "m")),
        (3, {("a", "m")}, {}, ("a", "n")),
        (3, {("a", "m"), ("a", "n")}, {}, None),
        (2, set(), {}, None),
        (3, set(), {"flights": {("a", "n"): 1}}, None),
        (3, set(), {"leaving": {("a", "n")}}, None),
        (3, set(), {"commitments": {"a": (Commitment("o", {}),)}}, None),
        (3, set(), {"drained": "a"}, None),
        (3, set(), {"policy": Policy(defrag_after_cycles=0)}, None),
    ],
)
def test_a_worn_node_is_renewed_one_by_one_while_all_of_it_idles(
    cycles: int, renewed: set[Spot], others: dict[str, Any], spot: Spot | None
) -> None:
    there = moment(
        replica("am", idle=IDLE), replica("an", idle=IDLE), **{"policy": Policy(defrag_after_cycles=3), **others}
    )

    found = due(there, cycles={"a": cycles, "gone": 9}, renewed=renewed)

    assert [chore.spot for chore in found if isinstance(chore, Renew)] == ([spot] if spot else [])


@pytest.mark.parametrize("other", [{"idle": IDLE - 1}, {"idle": IDLE, "state": "loading"}])
def test_a_node_with_one_that_does_not_rest_is_not_renewed(other: dict[str, Any]) -> None:
    there = moment(replica("am", idle=IDLE), replica("an", **other), policy=Policy(defrag_after_cycles=1))

    assert due(there, cycles={"a": 5}) == []


def test_those_who_wait_come_before_what_could_be_tidier() -> None:
    there = moment(
        replica("am", idle=90),
        specs=(spec(max_replicas=2, ttl=60), ModelSpec(id="n", min_resident=1)),
        policy=Policy(defrag_after_cycles=1),
    )
    found = due(there, since={"m": NOW - 10}, cycles={"a": 5})

    assert [type(chore) for chore in found] == [Want, Want, Unload, Renew]
