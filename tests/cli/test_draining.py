"""Emptying a node: what is left says why, and what cannot go does not keep anybody waiting."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.cli.draining import LOOKS_TO_BELIEVE, drain_and_wait, left_on, prospect
from cortex.cli.failures import Failure
from cortex.cli.fleet_client import NotThere
from cortex.cli.steps import Steps

from .conftest import Answer, CannedGateway


def replica(model: str = "qwen3", state: str = "ready", **changed: Any) -> dict[str, Any]:
    return {"model": model, "state": state, "in_flight": 0, "progress": "", **changed}


def node(*replicas: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"name": "beast", "healthy": True, "drained": True, "replicas": list(replicas), **changed}


def explained(*candidates: tuple[str, str, str], **changed: Any) -> dict[str, Any]:
    listed = [{"node": name, "verdict": verdict, "reason": reason} for name, verdict, reason in candidates]
    return {"catalogued": True, "replicas": [], "job": None, "last": [], "candidates": listed, **changed}


def answer(value: dict[str, Any]) -> Answer:
    return 200, json.dumps(value).encode()


@pytest.mark.parametrize(
    ("told", "why", "goes"),
    [
        (explained(replicas=[{"node": "beast"}, {"node": "attic"}]), "goes, as it is ready on attic", True),
        (
            explained(job={"phase": "loading", "plan": {"node": "attic"}}),
            "moves to attic: loading",
            True,
        ),
        (
            explained(("beast", "never", "is drained"), ("attic", "evict", "fits once b is gone")),
            "waits for attic",
            True,
        ),
        (explained(("attic", "wait", "memory is on its way back")), "waits for attic: memory is on its way back", True),
        (
            explained(("attic", "never", "is too small"), ("beast", "never", "is drained")),
            "stays: attic: is too small",
            False,
        ),
        (explained(("beast", "never", "is drained")), "stays: there is no other node", False),
        (explained(catalogued=False), "stays: the catalogue does not have it", False),
    ],
)
def test_a_replica_says_what_becomes_of_it(told: dict[str, Any], why: str, goes: bool) -> None:
    said, will_go = prospect("beast", {"attic"}, told)

    assert said.startswith(why)
    assert will_go is goes


def test_a_move_that_failed_says_of_what() -> None:
    failed = {"kind": "load_failed", "reason": "disk full"}

    said, goes = prospect("beast", {"attic"}, explained(("attic", "free", "fits"), last=[failed]))

    assert (said, goes) == ("waits for attic: fits; before that, disk full", True)


def test_what_comes_and_goes_is_waited_for_and_what_is_gone_is_not() -> None:
    on_it = node(
        replica("a", "draining", in_flight=2),
        replica("b", "loading", progress="load 40%"),
        replica("c", "failed"),
        replica("d", "unloaded"),
    )

    left = left_on("beast", {"nodes": [on_it]}, lambda model: pytest.fail(f"nobody needs to explain {model}"))

    assert [str(each) for each in left] == ["a is being unloaded (2 in flight)", "b is loading (load 40%)"]
    assert all(each.goes for each in left)


def test_a_replica_that_went_between_two_questions_is_not_left() -> None:
    def gone(model: str) -> dict[str, Any]:
        raise NotThere(model)

    assert left_on("beast", {"nodes": [node(replica())]}, gone) == []


def test_a_replica_on_another_drained_node_is_no_help() -> None:
    fleet = {"nodes": [node(replica()), {"name": "attic", "healthy": True, "drained": True}]}
    both = explained(("attic", "never", "is drained"), replicas=[{"node": "attic"}, {"node": "beast"}])

    (left,) = left_on("beast", fleet, lambda _: both)

    assert (left.why, left.goes) == ("stays: attic: is drained", False)


def wait(gateway: CannedGateway, pauses: list[float]) -> list[str]:
    return [str(left) for left in drain_and_wait(gateway.url, "beast", Steps(), pauses.append)]


def test_waiting_ends_when_the_node_is_empty(gateway: CannedGateway) -> None:
    gateway.answers["/fleet"] = [answer({"nodes": [node(replica())]}), answer({"nodes": [node()]})]
    gateway.answers["/fleet/explain/qwen3"] = answer(explained(("attic", "free", "fits")))
    pauses: list[float] = []

    assert wait(gateway, pauses) == []
    assert len(pauses) == 1


def test_waiting_ends_on_what_cannot_move_once_that_is_no_passing_state(gateway: CannedGateway) -> None:
    gateway.answers["/fleet"] = answer({"nodes": [node(replica())]})
    never, hope = explained(("attic", "never", "is too small")), explained(("attic", "wait", "is loading it"))
    gateway.answers["/fleet/explain/qwen3"] = [answer(never), answer(hope), answer(never)]
    pauses: list[float] = []

    assert wait(gateway, pauses) == ["qwen3 stays: attic: is too small"]
    assert len(pauses) == 2 + LOOKS_TO_BELIEVE - 1


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "was removed meanwhile"),
        ([node(drained=False)], "was put back into service meanwhile"),
        ([node(healthy=False, reason="timed out")], "cannot be told, as the gateway does not reach it: timed out"),
    ],
)
def test_waiting_ends_without_a_promise_when_there_is_nothing_to_wait_for(
    gateway: CannedGateway, nodes: list[dict[str, Any]], reason: str
) -> None:
    gateway.answers["/fleet"] = answer({"nodes": nodes})

    with pytest.raises(Failure, match=reason):
        wait(gateway, [])
