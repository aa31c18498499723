from __future__ import annotations

from typing import Any

from cortex.engines.one_call import OneCall


def chunk(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call(index: int, arguments: str = "{}") -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def through(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    one = OneCall()
    return [kept for each in chunks for kept in one.translate(each)]


def test_the_first_call_goes_through_and_no_other() -> None:
    first, end = chunk(tool_calls=[call(0)]), chunk("tool_calls")

    assert through(first, chunk(tool_calls=[call(1, "{")]), chunk(tool_calls=[call(1, "}")]), end) == [first, end]


def test_two_calls_in_one_chunk_become_one() -> None:
    assert through(chunk(tool_calls=[call(0), call(1)])) == [chunk(tool_calls=[call(0)])]


def test_what_comes_beside_a_second_call_is_kept() -> None:
    assert through(chunk("length", content="x", tool_calls=[call(1)])) == [chunk("length", content="x")]


def test_text_is_left_as_it_is() -> None:
    text = chunk(content="hello")

    assert through(text) == [text]
