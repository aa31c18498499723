"""A waterfall is readable at 80 columns, its bars are where the time was, and nothing in it is taken for markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from cortex.cli.trace_tables import bar, requests_table, story

TRACE: dict[str, Any] = {
    "id": "req-1",
    "received": 0.0,
    "seconds": 124.0,
    "outcome": "answered",
    "status": 200,
    "path": "/v1/chat/completions",
    "model": "org/big",
    "asked": "big",
    "node": "beast",
    "key": "alice",
    "finish_reason": "stop",
    "first_token_at": 120.5,
    "prompt_tokens": 7,
    "completion_tokens": 30,
    "tokens_per_second": 8.57,
    "decision": {"node": "beast", "reason": "only free replica", "rejected": {"attic": "no [b]free[/b] slot"}},
    "loads": [{"node": "beast", "why": "fits once small is gone", "cause": "request", "evicted": ["small"]}],
    "spans": [
        {"name": "waiting", "at": 0.0, "seconds": 120.0, "depth": 0, "note": "place 1 in the queue"},
        {"name": "cold start", "at": -16.0, "seconds": 136.0, "depth": 1, "note": "on beast"},
        {"name": "eviction", "at": 0.5, "seconds": 10.0, "depth": 2, "note": "small"},
        {"name": "decode", "at": 120.5, "seconds": 3.5, "depth": 0, "note": ""},
    ],
}


def printed(what: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_story_says_who_asked_for_what_and_where_the_time_went() -> None:
    lines = printed(story(TRACE)).splitlines()
    text = " ".join(line.strip() for line in lines)

    assert "req-1  org/big on beast  answered (stop)  124.0 s" in text
    assert "asked for as big, key alice" in text
    assert "first token after 120.5 s, 7 prompt tokens, 30 completion, 8.6 tok/s" in text
    assert "loaded on beast, after unloading small: fits once small is gone" in text
    assert "not attic: no [b]free[/b] slot" in text
    assert max(map(len, lines)) <= 80


def test_what_began_before_the_request_is_to_the_left_of_it() -> None:
    lines = printed(story(TRACE), 120).splitlines()
    cold, waiting = (next(line for line in lines if name in line) for name in ("cold start", "waiting"))

    assert cold.index("█") < waiting.index("█")


@given(st.floats(0, 100), st.floats(0, 100), st.integers(1, 60))
def test_a_bar_stays_within_its_line(at: float, seconds: float, cells: int) -> None:
    drawn = bar(at, seconds, 100.0, cells)

    assert len(drawn) <= cells
    assert bool(drawn.strip()) == (seconds > 0)


@pytest.mark.parametrize(("at", "seconds", "drawn"), [(0, 50, "████"), (50, 50, "    ████"), (0, 0, "")])
def test_a_bar_is_where_the_time_was(at: float, seconds: float, drawn: str) -> None:
    assert bar(at, seconds, 100, 8) == drawn


def test_a_list_keeps_ids_whole_to_be_copied() -> None:
    name = "req-5f3a9c21d04b7e8800000017"
    text = printed(requests_table([{**TRACE, "id": name, "wait_seconds": 120.0, "loads": 1}]), 110)

    assert name in text
