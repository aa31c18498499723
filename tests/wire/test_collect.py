from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.wire.collect import Collector, usage_chunk, usage_object
from cortex.wire.engine_api import Kind, Usage

HEAD = {"id": "chatcmpl-1", "created": 5, "model": "m", "system_fingerprint": "b1"}
USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=2)


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**HEAD, "object": "chat.completion.chunk", "choices": list(choices), **more}


def delta(index: int = 0, reason: str | None = None, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": reason, "logprobs": logprobs}


def text(piece: str, index: int = 0, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": piece, "finish_reason": reason, "logprobs": logprobs}


def call(
    index: int, call_id: str | None = None, name: str | None = None, arguments: str | None = None
) -> dict[str, Any]:
    head = {"id": call_id, "type": "function"} if call_id else {}
    function = {key: value for key, value in {"name": name, "arguments": arguments}.items() if value is not None}
    return {"index": index, **head, "function": function}


def collect(*chunks: dict[str, Any], kind: Kind = "chat") -> dict[str, Any]:
    collector = Collector(kind)
    for each in chunks:
        collector.add(json.dumps(each).encode())
    answer: dict[str, Any] = json.loads(collector.answer(USAGE))
    return answer


def only_choice(*choices: dict[str, Any], kind: Kind = "chat") -> dict[str, Any]:
    answer = collect(*(chunk(choice) for choice in choices), kind=kind)
    (choice,) = answer["choices"]
    assert isinstance(choice, dict)
    return choice


def test_the_stop_string_that_ended_a_choice_is_kept() -> None:
    ended = {**delta(reason="stop"), "stop_reason": "END"}

    assert only_choice(delta(content="Hi"), ended)["stop_reason"] == "END"
    assert "stop_reason" not in only_choice(delta(content="Hi", reason="stop"))
    assert only_choice({**text("Hi", reason="stop"), "stop_reason": "END"}, kind="completion")["stop_reason"] == "END"


def test_a_chat_answer_is_its_chunks_put_together() -> None:
    answer = collect(
        chunk(delta(role="assistant", content=None)),
        chunk(delta(content="Hel")),
        chunk(delta(content="lo")),
        chunk(delta(reason="stop")),
    )

    assert answer == {
        **HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def test_several_choices_come_in_order_however_they_interleave() -> None:
    answer = collect(
        chunk(delta(1, content="b")),
        chunk(delta(0, content="a"), delta(1, content="B")),
        chunk(delta(1, reason="length")),
        chunk(delta(0, content="A")),
        chunk(delta(0, reason="stop")),
    )

    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


def test_tool_calls_are_joined_from_their_pieces_by_index() -> None:
    choice = only_choice(
        delta(role="assistant", content=None),
        delta(tool_calls=[call(0, "call_a", "first", "")]),
        delta(tool_calls=[call(0, arguments='{"x"')]),
        delta(tool_calls=[call(0, arguments=":1}"), call(1, "call_b", "second", '{"y":')]),
        delta(tool_calls=[call(1, arguments="2}")]),
        delta(reason="tool_calls"),
    )

    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "first", "arguments": '{"x":1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "second", "arguments": '{"y":2}'}},
    ]
    assert choice["finish_reason"] == "tool_calls"


def test_reasoning_and_refusal_stay_apart_from_the_text() -> None:
    message = only_choice(
        delta(reasoning_content="let me "),
        delta(reasoning_content="think"),
        delta(content="42"),
        delta(refusal="no"),
    )["message"]

    assert message == {"role": "assistant", "content": "42", "reasoning_content": "let me think", "refusal": "no"}


@pytest.mark.parametrize(
    ("deltas", "content"),
    [
        ([delta(role="assistant", content=None), delta(reason="stop")], ""),
        ([delta(content=""), delta(reason="stop")], ""),
        ([delta(reasoning_content="hm"), delta(reason="length")], ""),
        ([delta(tool_calls=[call(0, "c", "f", "{}")]), delta(reason="tool_calls")], None),
        ([delta(content="Look: "), delta(tool_calls=[call(0, "c", "f", "{}")])], "Look: "),
        ([{"index": 0, "delta": None, "finish_reason": "stop"}], ""),
    ],
)
def test_content_is_null_only_beside_tool_calls(deltas: list[dict[str, Any]], content: str | None) -> None:
    assert only_choice(*deltas)["message"]["content"] == content


def test_an_answer_that_was_cut_short_has_no_finish_reason() -> None:
    assert only_choice(delta(content="Hel"))["finish_reason"] is None


def test_logprobs_of_all_tokens_are_kept_in_order() -> None:
    tokens = [{"token": t, "logprob": -0.5, "top_logprobs": []} for t in ("a", "b", "c")]
    choice = only_choice(
        delta(content="a", logprobs={"content": tokens[:1]}),
        delta(content="bc", logprobs={"content": tokens[1:]}),
        delta(reason="stop", logprobs={"content": None}),
    )

    assert choice["logprobs"] == {"content": tokens}


def test_a_completion_is_collected_with_its_parallel_logprobs() -> None:
    answer = collect(
        chunk(text("on", logprobs={"tokens": ["on"], "token_logprobs": [-0.1], "text_offset": [0]})),
        chunk(text("ce", logprobs={"tokens": ["ce"], "token_logprobs": [-0.2], "text_offset": [2]})),
        chunk(text("two", 1)),
        chunk(text("", reason="length"), text("", 1, reason="stop")),
        kind="completion",
    )

    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "text": "once",
            "logprobs": {"tokens": ["on", "ce"], "token_logprobs": [-0.1, -0.2], "text_offset": [0, 2]},
            "finish_reason": "length",
        },
        {"index": 1, "text": "two", "logprobs": None, "finish_reason": "stop"},
    ]


def test_a_chunk_without_choices_adds_nothing() -> None:
    assert (
        collect(chunk(delta(content="a")), chunk(usage={"prompt_tokens": 1}))["choices"][0]["message"]["content"] == "a"
    )


def test_the_usage_chunk_has_the_ids_of_its_stream_and_no_choices() -> None:
    last = json.dumps(chunk(delta(reason="stop"), timings={"x": 1})).encode()

    assert json.loads(usage_chunk(last, USAGE)) == {
        **HEAD,
        "object": "chat.completion.chunk",
        "choices": [],
        "usage": usage_object(USAGE),
    }


@settings(deadline=None)
@given(st.text(), st.data())
def test_the_borders_of_chunks_leave_no_trace(whole: str, data: st.DataObject) -> None:
    borders = data.draw(st.lists(st.integers(0, len(whole)), max_size=5).map(sorted))
    pieces = [whole[a:b] for a, b in zip([0, *borders], [*borders, len(whole)], strict=True)]

    assert only_choice(*(delta(content=piece) for piece in pieces))["message"]["content"] == whole
    assert only_choice(*(text(piece) for piece in pieces), kind="completion")["text"] == whole
