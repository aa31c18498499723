from __future__ import annotations

from typing import Any

import pytest

from cortex.core.errors import BadRequest
from wire.ollama.client import chat, generate, hub_body

COMMON = {"model", "messages", "stream", "stream_options"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}}


def hub_fields(**fields: Any) -> dict[str, Any]:
    hub = hub_body(chat(**fields))
    assert hub.items() >= hub_body(chat()).items()
    return {name: value for name, value in hub.items() if name not in COMMON}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (None, {}),
        ({}, {}),
        ({"temperature": 0.5, "top_k": 40, "top_p": 0.9}, {"temperature": 0.5, "top_k": 40, "top_p": 0.9}),
        ({"min_p": 0.1, "typical_p": 0.7, "seed": 0}, {"min_p": 0.1, "typical_p": 0.7, "seed": 0}),
        ({"repeat_penalty": 1.1, "presence_penalty": 1.5}, {"repeat_penalty": 1.1, "presence_penalty": 1.5}),
        ({"frequency_penalty": -1}, {"frequency_penalty": -1.0}),
        ({"temperature": None, "stop": None}, {}),
        ({"stop": ["a", "\n"]}, {"stop": ["a", "\n"]}),
        ({"stop": "a"}, {"stop": "a"}),
        ({"stop": []}, {}),
        ({"num_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": 0}, {}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"mirostat": 0, "repeat_last_n": 64}, {}),
    ],
)
def test_options_are_the_hubs_sampling(options: Any, fields: dict[str, Any]) -> None:
    assert hub_fields(options=options) == fields


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": "hot"}, "options.temperature"),
        ({"temperature": 3}, "options.temperature"),
        ({"top_p": 1.5}, "options.top_p"),
        ({"num_predict": -3}, "options.num_predict"),
        ({"seed": 2**63}, "options.seed"),
        ({"stop": [""]}, "options.stop[0]"),
        ({"stop": ["a"] * 17}, "options.stop"),
        ({"mirostat": 1}, "options.mirostat"),
        ({"repeat_last_n": -1}, "options.repeat_last_n"),
        ([], "options"),
    ],
)
@pytest.mark.parametrize("read", [chat, generate])
def test_an_option_that_cannot_be_honoured_is_refused_by_name(read: Any, options: Any, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(options=options)

    assert caught.value.param == param


def test_what_is_for_the_load_is_ignored_by_name() -> None:
    subject = chat(options={"num_ctx": 8192, "num_gpu": 99, "temperature": 1, "no such\n": 1})

    assert subject.ignored == ("options.no?such?", "options.num_ctx", "options.num_gpu")


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        (None, {}),
        ("", {}),
        ("json", {"response_format": {"type": "json_object"}}),
        (SCHEMA, {"response_format": AS_SCHEMA}),
    ],
)
def test_a_format_is_the_hubs(wanted: Any, fields: dict[str, Any]) -> None:
    assert hub_fields(format=wanted) == fields
    assert hub_body(generate(format=wanted)).get("response_format") == fields.get("response_format")


@pytest.mark.parametrize("wanted", ["xml", 3, True, [SCHEMA]])
def test_a_format_that_is_none_is_refused(wanted: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(format=wanted)

    assert caught.value.param == "format"


def test_a_schema_and_tools_go_to_the_hub_together() -> None:
    body = hub_body(chat(format=SCHEMA, tools=[{"function": {"name": "f"}}]))

    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    ("think", "fields", "ignored"),
    [
        (None, {}, ()),
        (True, {"reasoning_effort": "medium"}, ("think",)),
        (False, {"reasoning_effort": "none"}, ("think",)),
        ("low", {"reasoning_effort": "low"}, ("think",)),
        ("max", {"reasoning_effort": "max"}, ("think",)),
    ],
)
def test_what_a_client_says_of_thinking_is_the_hubs_effort(
    think: Any, fields: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    """A raw prompt is read by no template, which alone could heed it."""
    assert hub_fields(think=think) == fields
    assert chat(think=think).ignored == ()
    assert generate(think=think, raw=True).ignored == ignored


@pytest.mark.parametrize("think", ["hard", 1, {}])
def test_a_level_of_thinking_that_is_none_is_refused(think: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(think=think)

    assert caught.value.param == "think"
