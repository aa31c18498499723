from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import UpstreamFailed
from cortex.wire.anthropic.answer import read_answer
from cortex.wire.anthropic.thinking import Display, signature_of

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


def answer(reason: str | None = "stop", *, choice: dict[str, Any] | None = None, **message: Any) -> bytes:
    first = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": reason}
    head = {"id": "chatcmpl-1f2e", "object": "chat.completion", "created": 1, "model": "served"}
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
    return json.dumps({**head, "choices": [{**first, **(choice or {})}], "usage": usage}).encode()


def read(raw: bytes, stops: frozenset[str] = frozenset(), display: Display = Display.TEXT) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(read_answer(raw, "asked", stops, display))
    return value


def test_an_answer_is_a_message() -> None:
    assert read(answer("tool_calls", content="a", reasoning_content="hm", tool_calls=[CALL])) == {
        "id": "msg_1f2e",
        "type": "message",
        "role": "assistant",
        "model": "served",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": signature_of("hm", Display.TEXT)},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


@pytest.mark.parametrize(
    ("reason", "calls", "expected"),
    [
        ("stop", [], "end_turn"),
        ("stop", [CALL], "tool_use"),
        ("tool_calls", [CALL], "tool_use"),
        ("tool_calls", [], "end_turn"),
        ("length", [], "max_tokens"),
        ("length", [CALL], "max_tokens"),
        ("content_filter", [], "refusal"),
    ],
)
def test_why_an_answer_ended(reason: str, calls: list[Any], expected: str) -> None:
    assert read(answer(reason, content="a", tool_calls=calls))["stop_reason"] == expected


def test_a_stop_sequence_is_named_if_the_engine_named_it() -> None:
    message = read(answer(content="a", choice={"stop_reason": "END"}), frozenset({"END"}))

    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("arguments", ["", "{", "[]", '"a"', "null"])
def test_arguments_that_are_no_object_are_an_empty_input(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    assert read(answer("length", tool_calls=[call]))["content"][0]["input"] == {}


def test_calls_without_ids_get_some_that_differ() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}

    assert [block["id"] for block in read(answer(tool_calls=[call, call]))["content"]] == ["call_0", "call_1"]


def test_an_answer_without_anything_has_no_content() -> None:
    assert read(answer(content=""))["content"] == []


def test_thinking_that_was_not_asked_for_is_left_out() -> None:
    message = read(answer(content="a", reasoning_content="hm"), display=Display.NOTHING)

    assert message["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"{}", b"\xff", b'{"choices":[]}', answer(None), b'{"choices":[{"index":0,"finish_reason":"stop"}]}'],
)
def test_an_answer_that_cannot_be_read_is_the_nodes_fault(raw: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        read(raw)
