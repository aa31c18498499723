from __future__ import annotations

import json
import math
from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.wire.ollama import read_chat, read_generate
from cortex.wire.openai import read_head
from wire.ollama.client import NOW, PNG, PNG_PART, QUESTION, chat, generate, hub_body

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def test_a_chat_streams_unless_told_not_to() -> None:
    subject = chat()

    assert hub_body(subject) == {"model": "asked", "messages": QUESTION, **STREAM}
    assert (subject.kind, subject.stream, subject.ignored, subject.loads_only) == ("chat", True, (), False)
    assert subject.content_type == b"application/x-ndjson"


@pytest.mark.parametrize("read", [chat, generate])
def test_without_a_stream_the_hub_is_asked_for_none(read: Any) -> None:
    subject = read(stream=False)

    assert subject.stream is False
    assert not hub_body(subject).keys() & STREAM.keys()


@pytest.mark.parametrize("read", [chat, generate])
def test_the_hub_never_sees_the_default_tag(read: Any) -> None:
    subject = read(model="org/m:latest")

    assert subject.model == read_head(subject.body).model == "org/m"
    assert read(model="m:q4").model == "m:q4"


def test_tools_are_the_hubs() -> None:
    assert hub_body(chat(tools=[TOOL]))["tools"] == [TOOL]
    assert hub_body(chat(tools=[{"function": {"name": "f"}}]))["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]
    assert "tools" not in hub_body(chat(tools=[]))


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({}, [{"role": "user", "content": "hi"}]),
        ({"system": "s"}, [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]),
        ({"system": "", "images": []}, [{"role": "user", "content": "hi"}]),
        ({"images": [PNG]}, [{"role": "user", "content": [PNG_PART, {"type": "text", "text": "hi"}]}]),
        ({"raw": False, "template": "", "suffix": "", "context": []}, [{"role": "user", "content": "hi"}]),
    ],
)
def test_a_generation_is_a_chat_of_one_question(fields: dict[str, Any], messages: Any) -> None:
    subject = generate(**fields)

    assert hub_body(subject) == {"model": "asked", "messages": messages, **STREAM}
    assert subject.ignored == ()


def test_a_raw_generation_is_a_completion() -> None:
    subject = generate(raw=True, prompt="[INST] hi", options={"num_predict": 3})

    assert subject.kind == "completion"
    assert hub_body(subject) == {"model": "asked", "prompt": "[INST] hi", "max_tokens": 3, **STREAM}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"context": [1, 2]}, "context"),
        ({"suffix": "x"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"raw": True, "system": "s"}, "system"),
        ({"raw": True, "images": [PNG]}, "images"),
        ({"raw": True, "format": "json"}, "format"),
        ({"images": ["AAAA"]}, "images[0]"),
        ({"prompt": 3}, "prompt"),
        ({"model": ""}, "model"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"keep_alive": True}, "keep_alive"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_a_generation_cannot_have_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        generate(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [*QUESTION, {"role": "assistant", "content": "So"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "x", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"logprobs": True}, "logprobs"),
        ({"model": None}, "model"),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize("read", [read_chat, read_generate])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"model":"m","prompt":"\xff"}'])
def test_what_is_no_request_is_refused(read: Any, body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body, created_at=NOW)


def test_what_does_not_change_the_answer_is_ignored_by_name() -> None:
    subject = chat(truncate=True, shift=False, keep_alive="5m", x=1, context=[], options={"num_ctx": 1})

    assert subject.ignored == ("keep_alive", "options.num_ctx", "shift", "truncate", "x")


@pytest.mark.parametrize(
    ("keep_alive", "seconds", "ignored"),
    [(None, None, ()), (0, 0.0, ()), ("0s", 0.0, ()), ("5m", 300.0, ("keep_alive",)), (-1, math.inf, ("keep_alive",))],
)
def test_how_long_a_model_is_to_stay_is_told(keep_alive: Any, seconds: float | None, ignored: Any) -> None:
    subject = chat(keep_alive=keep_alive)

    assert (subject.keep_loaded_seconds, subject.ignored) == (seconds, ignored)


@pytest.mark.parametrize(
    "subject",
    [
        chat(messages=[]),
        chat(messages=None),
        generate(prompt=""),
        generate(prompt=None, system="s"),
        generate(prompt="", raw=True),
        read_chat(b'{"model":"asked"}', created_at=NOW),
    ],
)
def test_a_request_of_nothing_only_loads(subject: Any) -> None:
    assert (subject.loads_only, subject.body, subject.model) == (True, b"", "asked")


def test_a_request_is_read_as_it_was_sent() -> None:
    """Numbers and text of a schema are not touched on their way."""
    schema = {"type": "object", "properties": {"é\u2028": {"const": 1.50}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}

    assert json.loads(chat(tools=[tool]).body)["tools"] == [tool]
