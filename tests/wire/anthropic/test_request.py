from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest, UpstreamFailed
from cortex.wire import openai
from cortex.wire.anthropic import count_tokens, read_messages
from cortex.wire.anthropic.request import read_request

HI = [{"role": "user", "content": "hi"}]
LEAST = {"model": "m", "max_tokens": 64, "messages": HI}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def hub(**fields: Any) -> dict[str, Any]:
    """The hub's request for the least request with *fields*; the hub itself must accept it."""
    body = read_request(json.dumps({**LEAST, **fields}).encode()).body
    assert openai.read_request("chat", body).ignored == ()
    value: dict[str, Any] = json.loads(body)
    return value


def ignored(**fields: Any) -> tuple[str, ...]:
    return read_request(json.dumps({**LEAST, **fields}).encode()).ignored


def refusal(**fields: Any) -> BadRequest:
    body = {name: value for name, value in {**LEAST, **fields}.items() if value is not ...}
    with pytest.raises(BadRequest) as caught:
        read_request(json.dumps(body).encode())
    return caught.value


def test_the_least_request() -> None:
    assert hub() == {"model": "m", "messages": HI, "max_tokens": 64}
    assert ignored() == ()


def test_a_stream_asks_the_hub_for_usage() -> None:
    assert hub(stream=True).items() >= {"stream": True, "stream_options": {"include_usage": True}}.items()
    assert read_messages(json.dumps({**LEAST, "stream": True}).encode()).stream
    assert "stream" not in hub(stream=False)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 20}, {"temperature": 0.5, "top_p": 0.9, "top_k": 20}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"stop_sequences": ["A", " "]}, {"stop": ["A", " "]}),
        ({"stop_sequences": []}, {}),
        ({"temperature": None, "tools": None, "stream": None, "system": None, "thinking": None}, {}),
        ({"seed": 7, "min_p": 0.1}, {"seed": 7, "min_p": 0.1}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"output_config": {"effort": "low"}}, {}),
        (
            {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                }
            },
        ),
    ],
)
def test_what_the_hub_knows_is_passed_on(given_: dict[str, Any], expected: dict[str, Any]) -> None:
    assert hub(**given_) == {"model": "m", "messages": HI, "max_tokens": 64, **expected}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"metadata": {"user_id": "u"}, "service_tier": "auto"}, ("metadata", "service_tier")),
        ({"context_management": {"edits": []}, "betas": ["x"]}, ("betas", "context_management")),
        ({"cache_control": {"type": "ephemeral"}}, ("cache_control",)),
        ({"from_2099": 1}, ("from_2099",)),
        ({"a\r\nb": 1}, ("a??b",)),
        ({"thinking": {"type": "adaptive"}}, ()),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ("thinking.budget_tokens",)),
        ({"thinking": {"type": "disabled"}}, ()),
        ({"output_config": {"effort": "high"}}, ("output_config.effort",)),
        ({"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}}, ()),
        ({"output_config": {"effort": "high"}, "thinking": {"type": "disabled"}}, ("output_config.effort",)),
        ({"output_config": {"effort": ["high"]}, "thinking": {"type": "adaptive"}}, ("output_config.effort",)),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}, ("tools.web_search_20250305",)),
        ({"tools": [{"type": "bash_20250124\n", "name": "bash"}]}, ("tools.bash_20250124?",)),
        ({"tools": [{**TOOL, "cache_control": {}, "defer_loading": True}]}, ("cache_control", "tools.defer_loading")),
        ({"system": [{"type": "text", "text": "s", "cache_control": {}}]}, ("cache_control",)),
    ],
)
def test_what_is_not_passed_on_is_named(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    assert ignored(**fields) == names
    hub(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": ...}, "max_tokens: Field required"),
        ({"model": ...}, "model: Field required"),
        ({"messages": ...}, "messages: Field required"),
        ({"max_tokens": 0}, "max_tokens: Expected `int` >= 1"),
        ({"temperature": 3}, "temperature: Expected `float` <= 2.0"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences: Expected `array` of length <= 16"),
        ({"messages": []}, "messages: Expected `array` of length >= 1"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role: Invalid enum value 'tool'"),
        ({"thinking": {"type": "often"}}, "thinking.type: Invalid enum value 'often'"),
        (
            {"messages": [*HI, {"role": "assistant", "content": "{"}]},
            "messages: This model does not support assistant message prefill. "
            "The conversation must end with a user message.",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    error = refusal(**fields)

    assert error.message == message
    assert error.param == message.partition(":")[0]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"model":"m","max_tokens":1,"messages":' + b"[" * 5000])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(body)


def test_bytes_that_are_not_text_are_refused_where_nothing_reads_them() -> None:
    with pytest.raises(BadRequest, match="UTF-8"):
        read_request(json.dumps({**LEAST, "tools": [TOOL]}).encode().replace(b"object", b"obj\xff"))


def test_counting_asks_for_the_tokens_of_messages_and_tools() -> None:
    fields = {"model": "m", "system": "s", "messages": HI, "tools": [TOOL], "thinking": {"type": "adaptive"}}

    counting = count_tokens(json.dumps({**fields, "x": 1}).encode())

    function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert json.loads(counting.body) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, *HI],
        "tools": [function],
    }
    assert (counting.model, counting.ignored) == ("m", ("x",))
    assert counting.answer(b'{"tokens":[1,2,3],"count":3}') == b'{"input_tokens":3}'


def test_counting_needs_no_max_tokens_and_takes_a_conversation_that_ends_with_the_assistant() -> None:
    messages = [*HI, {"role": "assistant", "content": "a"}]

    assert json.loads(count_tokens(json.dumps({"model": "m", "messages": messages}).encode()).body) == {
        "model": "m",
        "messages": messages,
    }


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_counting_names_what_is_missing(missing: str) -> None:
    body = {name: value for name, value in LEAST.items() if name != missing}

    with pytest.raises(BadRequest, match=f"{missing}: Field required"):
        count_tokens(json.dumps(body).encode())


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"count":"3"}'])
def test_a_count_that_cannot_be_read_is_the_nodes_fault(answer: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        count_tokens(json.dumps(LEAST).encode()).answer(answer)


TEXT = st.text(max_size=8)
PLAIN = st.one_of(TEXT, st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3))
ROLES = st.sampled_from(["user", "assistant", "system", "developer"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": PLAIN}), max_size=6)


@given(system=st.one_of(st.none(), PLAIN), messages=MESSAGES, last=PLAIN)
def test_any_conversation_of_text_is_one_that_every_template_takes(system: Any, messages: Any, last: Any) -> None:
    """One system message at most, first; then turns that alternate; and every text is in it, in order."""
    asked = hub(system=system, messages=[*messages, {"role": "user", "content": last}])["messages"]

    roles = [message["role"] for message in asked]
    turns = roles[1:] if roles[0] == "system" else roles
    assert set(turns) <= {"user", "assistant"}
    assert all(a != b for a, b in pairwise(turns))
    said = "\0".join(message["content"] for message in asked)
    for each in (system or "", *(message["content"] for message in messages), last):
        for text in [each] if isinstance(each, str) else [block["text"] for block in each]:
            assert text in said
            said = said[said.index(text) + len(text) :]
