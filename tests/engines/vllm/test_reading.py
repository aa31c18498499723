"""What vLLM's serving layer streams, as recorded of 0.32, and what it becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.engines.vllm.reading import EngineFault, Reading

HEAD = {"id": "chatcmpl-r1.7", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def line(**fields: Any) -> str:
    return f"data: {json.dumps({**HEAD, **fields})}\n\n"


def choice(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **more}


def read(*lines: str, stops: tuple[str, ...] = ()) -> tuple[list[dict[str, Any]], Reading]:
    reading = Reading("org/m", list(stops))
    return [chunk for each in lines if (chunk := reading.feed(each)) is not None], reading


def test_words_and_their_end() -> None:
    chunks, reading = read(
        line(choices=[choice({"role": "assistant", "content": ""})]),
        line(choices=[choice({"content": "hi"})]),
        line(choices=[choice({"content": ""}, "length", stop_reason=None)]),
        line(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}),
        "data: [DONE]\n\n",
    )

    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "hi", ""]
    assert {chunk["model"] for chunk in chunks} == {"org/m"}
    assert "stop_reason" not in chunks[-1]["choices"][0]
    assert (reading.finish_reason, reading.completion_tokens) == ("length", 2)


def test_reasoning_has_the_name_that_clients_know() -> None:
    ((first, second), _) = read(
        line(choices=[choice({"reasoning": "hm", "content": None})]), line(choices=[choice({"content": "so"})])
    )

    assert first["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert second["choices"][0]["delta"] == {"content": "so"}


@pytest.mark.parametrize(
    ("reason", "told"), [("stop", "tool_calls"), ("tool_calls", "tool_calls"), ("length", "length")]
)
def test_an_answer_that_calls_ends_as_one_unless_it_was_cut(reason: str, told: str) -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chunks, reading = read(line(choices=[choice({"tool_calls": [call]})]), line(choices=[choice({}, reason)]))

    assert chunks[0]["choices"][0]["delta"]["tool_calls"] == [call]
    assert chunks[-1]["choices"][0]["finish_reason"] == reading.finish_reason == told


def test_the_stop_string_of_the_client_is_named_and_a_stop_token_is_not() -> None:
    ended = line(choices=[choice({}, "stop", stop_reason="END")])
    by_token = line(choices=[choice({}, "stop", stop_reason=128009)])

    assert read(ended, stops=("END",))[0][0]["choices"][0]["stop_reason"] == "END"
    assert "stop_reason" not in read(by_token, stops=("END",))[0][0]["choices"][0]


def test_a_completion_keeps_its_text_and_log_probabilities() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [0]}
    text = {"index": 1, "text": "a", "logprobs": logprobs, "finish_reason": None, "stop_reason": None}
    ((chunk,), _) = read(line(object="text_completion", choices=[text]))

    assert chunk["choices"] == [{"index": 1, "text": "a", "logprobs": logprobs, "finish_reason": None}]


def test_a_refusal_in_the_stream_blames_the_request_by_its_parameter() -> None:
    error = {"message": "top_p must be in (0, 1]", "type": "BadRequestError", "param": "top_p", "code": 400}

    with pytest.raises(BadRequest, match="top_p") as caught:
        read(line(error=error))

    assert caught.value.param == "top_p"


def test_a_failure_in_the_stream_does_not() -> None:
    with pytest.raises(EngineFault, match="EngineCore"):
        read(line(error={"message": "EngineCore encountered an issue", "code": 500}))
