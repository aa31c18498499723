"""What an operator reads: a sentence first, then facts, readable at any width, and nothing of it taken for markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from cortex.cli.fleet_tables import CANDIDATES_SHOWN, explanation, fleet_table, timeline

GIB = 1 << 30
ROOM = {"device": 0, "name": "RTX [b]4090", "free_bytes": 3 * GIB, "needed_bytes": 12 * GIB}


def plan(**changed: Any) -> dict[str, Any]:
    base = {"node": "beast", "evicts": [], "drains": [], "cost_seconds": 4.25, "blind": False, "reason": "fits"}
    return {**base, **changed}


def candidate(node: str, verdict: str = "never", **changed: Any) -> dict[str, Any]:
    base = {"node": node, "verdict": verdict, "reason": "", "devices": [], "plan": None, "obstacles": []}
    return {**base, **changed}


def explained(**changed: Any) -> dict[str, Any]:
    base = {
        "model": "qwen3",
        "decision": "load",
        "summary": "it is loaded on beast after unloading smol: fits once smol is gone",
        "catalogued": True,
        "priority": 100,
        "strategy": "lru",
        "waiting": 0,
        "job": None,
        "replicas": [],
        "candidates": [],
        "last": [],
    }
    return {**base, **changed}


def printed(what: RenderableType, width: int = 120, *, terminal: bool = False) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=terminal, color_system="standard" if terminal else None).print(
        what
    )
    return output.getvalue()


def test_the_sentence_comes_first() -> None:
    text = printed(explanation(explained()))

    assert text.startswith("qwen3: it is loaded on beast after unloading smol")


def test_replicas_come_with_what_a_request_would_find_there() -> None:
    replica = {"node": "beast", "expected_seconds": 1.24, "in_flight": 3, "slots": 4, "idle_seconds": 0, "note": "warm"}

    text = printed(explanation(explained(decision="serve", replicas=[replica])))

    for part in ("beast", "1.2 s", "3 of 4", "warm"):
        assert part in text


def test_a_candidate_says_what_is_free_and_needed_and_who_would_go() -> None:
    best = candidate("beast", "drain", devices=[ROOM], plan=plan(evicts=["smol", "busy"], drains=["busy"]))

    text = printed(explanation(explained(candidates=[best])))

    assert "  1 beast  drain, 4.2 s\n" in text
    assert "RTX [b]4090 (device 0): 12.0 GiB needed, 3.0 GiB free\n" in text
    assert "unloads smol\n" in text
    assert "drains busy, and unloads it then\n" in text


def test_what_stands_in_the_way_is_told_once() -> None:
    held = candidate("attic", reason="is drained", obstacles=["is drained", "12 MiB are missing"])

    text = printed(explanation(explained(decision="refuse", candidates=[held])))

    assert text.count("is drained") == 1
    assert "12 MiB are missing" in text


def test_a_need_that_nobody_knows_yet_is_not_zero() -> None:
    best = candidate("beast", "free", devices=[{**ROOM, "needed_bytes": 0}], plan=plan(blind=True))

    assert "an unknown amount needed" in printed(explanation(explained(candidates=[best])))


def test_more_than_can_be_used_is_never_free() -> None:
    best = candidate("beast", "never", devices=[{**ROOM, "free_bytes": -GIB}])

    assert "0.0 GiB free" in printed(explanation(explained(candidates=[best])))


def test_of_a_large_fleet_the_best_places_are_shown_and_the_rest_counted() -> None:
    many = [candidate(f"node-{at}") for at in range(CANDIDATES_SHOWN + 5)]

    text = printed(explanation(explained(candidates=many)))

    assert f"node-{CANDIDATES_SHOWN - 1}" in text
    assert f"node-{CANDIDATES_SHOWN} " not in text
    assert "and 5 more nodes" in text


def test_what_is_under_way_says_for_whom_how_far_and_which_nodes_failed() -> None:
    job = {
        "cause": "move",
        "seconds": 12.4,
        "held": "",
        "phase": "loading",
        "plan": plan(),
        "avoids": {"attic": "broke"},
    }

    text = printed(explanation(explained(decision="wait", job=job, waiting=3)))

    assert "under way for 12 s (move): loading" in text
    assert "not on attic: broke" in text
    assert "waiting requests: 3" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_loses_no_word(width: int) -> None:
    obstacle = "5000 MiB are needed on RTX 4090 (device 0), where 2388 MiB can be used: 2612 MiB are missing"
    text = printed(explanation(explained(candidates=[candidate("beast", devices=[ROOM], obstacles=[obstacle])])), width)

    assert max(map(len, text.splitlines())) <= width
    assert obstacle.split() == [word for word in text.split() if word in obstacle.split()][-len(obstacle.split()) :]


def test_colours_are_for_terminals() -> None:
    shown = explanation(explained(candidates=[candidate("beast")]))

    assert "\x1b[" not in printed(shown)
    assert "\x1b[31mnever" in printed(shown, terminal=True)


def test_the_last_decisions_are_a_timeline_with_what_was_planned_and_what_came_of_it() -> None:
    planned = {
        "time": 1_760_000_000.0,
        "kind": "planned",
        "node": "beast",
        "reason": "fits once smol is gone",
        "cause": "request",
        "plan": plan(evicts=["smol"]),
    }
    finished = {"time": 1_760_000_009.0, "kind": "load_failed", "node": "beast", "reason": "disk full", "seconds": 9.0}

    text = printed(timeline(explained(last=[planned, finished])))

    assert text.index("planned  beast") < text.index("load failed  beast")
    for part in ("fits once smol is gone", "for: request", "unloads smol", "after 9.0 s"):
        assert part in text


def test_a_model_of_which_nothing_was_decided_says_so() -> None:
    assert "nothing was decided for it" in printed(timeline(explained()))


def test_nodes_show_health_devices_replicas_version_and_when_they_were_seen() -> None:
    node = {
        "name": "beast",
        "endpoint": "http://10.0.0.1:13131",
        "healthy": True,
        "drained": True,
        "version": "0.3.0",
        "seen_seconds_ago": 1.3,
        "devices": [{"name": "RTX [b]4090", "kind": "cuda", "total_bytes": 24 * GIB, "free_bytes": 6 * GIB}],
        "replicas": [
            {"model": "qwen3", "state": "ready", "in_flight": 2, "slots": 4, "queued": 1},
            {"model": "smol", "state": "loading", "progress": "load 40%"},
        ],
    }
    gone = {"name": "attic", "healthy": False, "reason": "connection refused", "seen_seconds_ago": None}

    text = printed(fleet_table({"nodes": [node, gone]}), 200)

    for part in ("healthy", "drained", "RTX [b]4090, 6.0 of 24.0 GiB free", "0.3.0", "1 s ago"):
        assert part in text
    assert "qwen3 ready, 2 of 4 in flight, 1 queued" in text
    assert "smol loading, load 40%" in text
    assert "unhealthy: connection refused" in text
    assert "never" in text


def test_versions_that_differ_stand_out() -> None:
    def versions(*several: str) -> str:
        nodes = [{"name": f"n{at}", "healthy": True, "version": version} for at, version in enumerate(several)]
        return printed(fleet_table({"nodes": nodes}), terminal=True)

    assert "\x1b[33m0.2.0" in versions("0.2.0", "0.3.0")
    assert "\x1b[33m" not in versions("0.3.0", "0.3.0")
