from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.wire.openai import read_request
from cortex.wire.responses.request import previous_id, referenced_ids
from cortex.wire.responses.translation import read_responses
from wire.responses.dialogue import Value, collected, ended, hub_body, read, refused

MESSAGE = {"type": "message", "role": "user", "content": "earlier"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def shown(**fields: Any) -> Value:
    """Return the response object that answers a request with *fields*."""
    response: Value = collected(ended(), **fields)[-1]["response"]
    return response


def test_a_request_that_does_not_stream_asks_for_no_stream() -> None:
    body = hub_body()

    assert body == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stream_asks_the_hub_for_usage() -> None:
    assert hub_body(stream=True)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("sent", "hub"),
    [
        ({"max_output_tokens": 64}, {"max_tokens": 64}),
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "user", "strict": True, "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "user", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"seed": 7, "stop": ["\n"], "top_k": 40}, {"seed": 7, "stop": ["\n"], "top_k": 40}),
    ],
)
def test_what_changes_the_answer_reaches_the_hub(sent: Value, hub: Value) -> None:
    plain = hub_body()

    assert hub_body(**sent) == {**plain, **hub}
    assert read(**sent).ignored == ()


@pytest.mark.parametrize("name", ["background", "conversation", "prompt", "moderation"])
def test_what_cannot_be_honoured_is_refused_by_name(name: str) -> None:
    error = refused(**{name: True if name == "background" else {"id": "x"}})

    assert (error.param, error.code) == (name, "unsupported_parameter")


def test_a_schema_and_tools_go_to_the_hub_together() -> None:
    """`codex exec --output-schema` sends its tools as ever."""
    tool = {"type": "function", "name": "exec_command", "parameters": {"type": "object"}}
    text = {"format": {"type": "json_schema", "name": "user", "schema": SCHEMA}}

    body = hub_body(text=text, tools=[tool])

    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["tools"][0]["function"]["name"] == "exec_command"


def test_a_schema_stays_where_every_tool_was_left_out() -> None:
    text = {"format": {"type": "json_schema", "name": "user", "schema": SCHEMA}}

    body = hub_body(text=text, tools=[{"type": "web_search"}])

    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("value", [None, False])
def test_what_was_turned_off_is_not_refused(value: bool | None) -> None:
    assert read(background=value, conversation=None, prompt=None).ignored == ()


def test_what_changes_nothing_is_accepted_and_named() -> None:
    translation = read(
        client_metadata={"a": "b"},
        truncation="auto",
        service_tier="flex",
        include=["file_search_call.results"],
        max_tool_calls=3,
        stream_options={"include_obfuscation": False},
    )

    assert translation.ignored == (
        *("client_metadata", "include.file_search_call.results", "max_tool_calls"),
        *("service_tier", "stream_options", "truncation"),
    )


def test_what_is_kept_for_the_client_is_repeated_and_not_named() -> None:
    kept = {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "store": False}

    response = shown(**kept, truncation="disabled", service_tier="auto")

    assert {name: response[name] for name in kept} == kept
    assert "warnings" not in response


def test_a_translation_says_what_its_caller_decides_by() -> None:
    translation = read(store=False, prompt_cache_key="k")

    assert (translation.store, translation.cache_key, translation.previous_id) == (False, "k", None)
    assert read().store


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"truncation": "some"}, "truncation"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(fields: Value, param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": "m"', b"\xff"])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_responses(body, response_id="resp_1", created_at=5)


# what a request leans on ---------------------------------------------------------------------------------------------


def test_the_response_that_is_continued_is_known_before_the_request_is_read() -> None:
    assert (
        previous_id(b'{"previous_response_id": "resp_9", "input": 3.5e3, "tools": 7}'.replace(b"3.5e3", b'"x"'))
        == "resp_9"
    )
    assert previous_id(b'{"model": "m"}') is None


def test_the_items_before_come_first_and_their_instructions_do_not() -> None:
    body = json.loads(read(previous=[MESSAGE], previous_response_id="resp_9", instructions="new").body)

    assert [message["content"] for message in body["messages"]] == ["new", "earlier", "hi"]


def test_a_continuation_may_send_nothing_new() -> None:
    body = json.loads(read(previous=[MESSAGE], previous_response_id="resp_9", input=[]).body)

    assert [message["content"] for message in body["messages"]] == ["earlier"]


def test_a_response_that_nobody_kept_is_refused() -> None:
    error = refused(previous_response_id="resp_9")

    assert (error.param, error.code) == ("previous_response_id", "previous_response_not_found")


def test_referenced_items_are_known_before_the_request_is_read() -> None:
    given: list[Value] = [
        {"type": "item_reference", "id": "msg_9_0"},
        {"role": "user", "content": "x"},
        {"id": "rs_9_1"},
    ]

    assert referenced_ids(json.dumps({"input": given}).encode()) == ("msg_9_0", "rs_9_1")
    assert referenced_ids(b'{"input": "x"}') == ()


def test_a_reference_is_replaced_by_its_item() -> None:
    translation = read(references={"msg_9_0": MESSAGE}, input=[{"type": "item_reference", "id": "msg_9_0"}])

    assert json.loads(translation.body)["messages"] == [{"role": "user", "content": "earlier"}]


def test_a_reference_to_what_nobody_kept_is_refused() -> None:
    error = refused(input=[{"type": "item_reference", "id": "msg_9_0"}])

    assert (error.param, error.code) == ("input[0].id", "item_not_found")


def test_a_wrong_item_among_those_before_is_told_from_the_clients_own() -> None:
    with pytest.raises(BadRequest) as caught:
        read(previous=[{"role": "robot", "content": "x"}], previous_response_id="resp_9")

    assert caught.value.param == "input[-1].role"


plain = st.none() | st.booleans() | st.integers() | st.text()
json_values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
names = st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include", "metadata"])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, json_values))
def test_any_json_is_read_or_refused(fields: Value) -> None:
    with suppress(BadRequest):
        assert json.loads(read(**fields).body)["model"] == "m"


def test_the_hub_accepts_what_is_made_of_everything() -> None:
    everything = read(
        stream=True,
        instructions="be terse",
        tools=[{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}, {"type": "mcp"}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "c"}]},
        top_logprobs=2,
        include=["reasoning.encrypted_content"],
    )

    request = read_request("chat", everything.body)

    assert (request.stream, request.include_usage) == (True, True)
