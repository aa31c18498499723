from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from cortex.wire.engine_api import Kind
from cortex.wire.openai import CHAT, KINDS, Head, Request, read_head, read_request

RECORDINGS = Path(__file__).parents[3] / "shared" / "clients" / "recordings"
HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
SEARCH = {"type": "web_search", "search_context_size": "low"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
BASE: dict[Kind, dict[str, Any]] = {
    "chat": {"model": "m", "messages": HELLO},
    "completion": {"model": "m", "prompt": "once"},
    "embedding": {"model": "m", "input": "text"},
}


def body(kind: Kind = "chat", **change: Any) -> bytes:
    return json.dumps({**BASE[kind], **change}).encode()


def read(kind: Kind = "chat", **change: Any) -> Request:
    return read_request(kind, body(kind, **change))


def forwarded(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(request.body)
    return fields


def refused(kind: Kind = "chat", raw: bytes | None = None, **change: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read_request(kind, raw if raw is not None else body(kind, **change))
    assert caught.value.status == 400
    return caught.value


def user(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


def image(url: Any) -> list[dict[str, Any]]:
    return user([{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": url}])


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


# what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10.0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": 99}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"typical_p": -1}, "typical_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 0.5}, "top_k"),
        ({"repeat_penalty": -1}, "repeat_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": "2"}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a"] * 10_000}, "stop"),
        ({"stop": 5}, "stop"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"logit_bias": {"5\n": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
        ({"logit_bias": {str(i): 1 for i in range(1001)}}, "logit_bias"),
        ({"logit_bias": [[5, 1]]}, "logit_bias"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_field_out_of_range_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    assert refused(**change).param == param


@pytest.mark.parametrize("literal", [b"1" + b"0" * 5000, b"-1" + b"0" * 5000, b"1e999"])
@pytest.mark.parametrize("name", ["max_tokens", "temperature", "seed", "n", "top_k"])
def test_a_number_beyond_all_bounds_is_refused_by_name(name: str, literal: bytes) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"' + name.encode() + b'":' + literal + b"}"

    assert refused(raw=raw).param == name


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        (None, "messages"),
        ({}, "messages"),
        ([None], "messages[0]"),
        ([{}], "messages[0]"),
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([*HELLO, {"role": "user", "content": 5}], "messages[1].content"),
        ([{"role": "user"}], "messages[0].content"),
        (user(None), "messages[0].content"),
        ([{"role": "system", "content": None}], "messages[0].content"),
        (user([5]), "messages[0].content[0]"),
        (user([{"type": "text"}]), "messages[0].content[0].text"),
        (user([{"text": "x"}]), "messages[0].content[0]"),
        (user([{"type": "text", "text": "x"}, {"type": "video"}]), "messages[0].content[1].type"),
        (user([{"type": "input_audio", "input_audio": {}}]), "messages[0].content[0].type"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "tool", "content": "x", "tool_call_id": ""}], "messages[0].tool_call_id"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_message_that_is_wrong_is_refused_by_place(messages: Any, param: str) -> None:
    assert refused(messages=messages).param == param


def test_missing_messages_are_named() -> None:
    assert "`messages`" in refused(raw=b'{"model":"m"}').message


@pytest.mark.parametrize(
    "url",
    [
        {"url": "file:///etc/passwd"},
        {"url": "http://169.254.169.254/latest"},
        {"url": "https://host/cat.png"},
        {"url": "data:text/html,x"},
        {"url": ""},
        "http://host/cat.png",
        None,
    ],
)
def test_no_image_is_fetched_on_a_client_s_behalf(url: Any) -> None:
    error = refused(messages=image(url))

    assert (error.param, error.code) == ("messages[0].content[1].image_url", "invalid_image_url")


def test_an_image_that_unpacks_to_too_much_is_refused() -> None:
    """Some kilobytes of PNG can be 4,000,000,000 pixels."""
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (63_246).to_bytes(4, "big") * 2 + bytes(9)
    error = refused(messages=image("data:image/png;base64," + base64.b64encode(header).decode()))

    assert (error.param, error.code) == ("messages[0].content[1].image_url", "invalid_image_url")
    assert "63246 x 63246 pixels are more than 50000000" in error.message


@pytest.mark.parametrize("url", [{"url": PIXEL, "detail": "low"}, PIXEL], ids=["object", "text"])
def test_an_image_in_the_request_itself_is_accepted(url: Any) -> None:
    request = read(messages=image(url))

    assert request.has_images
    assert forwarded(request)["messages"] == image(url)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [WEATHER, CLOCK, WEATHER]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0]"),
        ({"tools": [CLOCK, {"type": "function", "function": {}}]}, "tools[1].function"),
        ({"tools": [named("two words")]}, "tools[0].function.name"),
        ({"tools": [named("")]}, "tools[0].function.name"),
        ({"tools": [named("line\n")]}, "tools[0].function.name"),
        ({"tools": [named("x" * 129)]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": named("clock")}, "tool_choice"),
        ({"tool_choice": named("weather")}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": "required"}, "tool_choice"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
            "response_format.json_schema.schema",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tools_and_formats_that_cannot_be_honoured_are_refused_by_name(change: dict[str, Any], param: str) -> None:
    assert refused(**change).param == param


@pytest.mark.parametrize("kind", ["chat", "completion", "embedding"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ x }}"),
        ("prompt_embeds", "AAAA"),
        ("grammar", "root ::= x"),
        ("guided_json", {}),
        ("json_schema", {}),
        ("functions", []),
        ("function_call", "auto"),
        ("audio", {"voice": "x"}),
        ("best_of", 2),
        ("n_discard", 0),
        ("n_keep", 5),
        ("n_predict", 5),
        ("min_tokens", 1),
        ("ignore_eos", True),
        ("samplers", ["top_k"]),
    ],
)
def test_what_reaches_into_an_engine_or_changes_the_answer_is_refused(kind: Kind, name: str, value: Any) -> None:
    error = refused(kind, **{name: value})

    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"), [("ignore_eos", False), ("best_of", 1), ("functions", None), ("audio", None)]
)
def test_what_only_says_the_default_is_accepted_and_not_forwarded(name: str, value: Any) -> None:
    request = read(**{name: value})

    assert name not in forwarded(request)
    assert request.ignored == ()


# what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 1},
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 0.05},
        {"typical_p": 1},
        {"repeat_penalty": 1.1},
        {"n": 128},
        {"seed": 2**63 - 1},
        {"seed": -1},
        {"stop": "END"},
        {"stop": ["a", "b"]},
        {"stop": []},
        {"frequency_penalty": -2, "presence_penalty": 2},
        {"logit_bias": {"50256": -100, "-1": 1.5}},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": False, "top_logprobs": 0},
        {"tools": [WEATHER, CLOCK], "tool_choice": "auto", "parallel_tool_calls": False},
        {"tools": [WEATHER], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": named("weather")},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}, "tools": [WEATHER]},
        {"response_format": {"type": "json_object"}},
        {"response_format": SCHEMA},
        {"response_format": SCHEMA, "tools": []},
        {"messages": [{"role": "system", "content": "be brief"}, *HELLO]},
        {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"id": "a", **named("f")}]}]},
        {"messages": [*HELLO, {"role": "assistant", "content": ""}, *HELLO]},
        {"messages": [*HELLO, {"role": "tool", "content": "12", "tool_call_id": "a", "name": "f"}]},
        {"messages": user([{"type": "text", "text": ""}], name="Ada")},
        {"messages": [*HELLO, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
        {"messages": user("hi", reasoning_content="private", cache_control={"type": "ephemeral"})},
    ],
    ids=lambda change: str(change)[:60],
)
def test_what_an_engine_can_honour_is_forwarded_as_sent(change: dict[str, Any]) -> None:
    request = read(**change)

    assert forwarded(request) == {"messages": HELLO, **change}
    assert request.ignored == ()


def test_the_bytes_of_a_field_are_not_touched() -> None:
    raw = b'{ "messages" : [ {"role":"user", "content":"\\u00e9"} ], "temperature": 0.70, "model":"m" }'

    assert read_request("chat", raw).body == (
        b'{"messages":[ {"role":"user", "content":"\\u00e9"} ],"temperature":0.70}'
    )


@pytest.mark.parametrize("kind", ["chat", "completion", "embedding"])
def test_null_means_absent(kind: Kind) -> None:
    """SDKs send null for what was not set."""
    optional = (ALLOWED[kind] | READ_HERE | REFUSED) - {"model", "messages", "prompt", "input"}
    without = read(kind)
    request = read(kind, **dict.fromkeys(optional))

    assert request.body == without.body
    assert (request.stream, request.max_tokens, request.choices) == (False, None, 1)


def test_unknown_fields_are_named_and_not_forwarded() -> None:
    request = read(metadata={"a": 1}, user="ada", store=True, cache_prompt=True, slot_id=3)

    assert request.ignored == ("cache_prompt", "metadata", "slot_id", "store", "user")
    assert forwarded(request) == {"messages": HELLO}


def test_a_field_s_name_cannot_forge_a_header() -> None:
    (name,) = read(**{"x\r\nset-cookie: é" + "y" * 100: 1}).ignored

    assert name.isascii()
    assert name.isprintable()
    assert len(name) <= 60
    assert not set(name) & set(", :;\r\n")


def test_hosted_tools_are_dropped_and_named() -> None:
    request = read(tools=[SEARCH, WEATHER, {"type": "file_search"}, SEARCH])

    assert forwarded(request)["tools"] == [WEATHER]
    assert request.ignored == ("tools.file_search", "tools.web_search")


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
    ],
)
def test_an_engine_hears_one_limit_whichever_name_it_came_under(change: dict[str, Any], limit: int | None) -> None:
    request = read(**change)

    assert request.max_tokens == limit
    assert forwarded(request).get("max_tokens") == limit
    assert "max_completion_tokens" not in forwarded(request)


def test_roles_that_no_template_knows_become_those_it_does() -> None:
    request = read(
        messages=[
            {"role": "developer", "content": "be brief"},
            *HELLO,
            {"role": "function", "content": "12", "name": "clock", "extra": [1]},
        ]
    )

    assert forwarded(request)["messages"] == [
        {"role": "system", "content": "be brief"},
        *HELLO,
        {"role": "tool", "content": "12", "name": "clock", "extra": [1]},
    ]


@pytest.mark.parametrize(
    ("change", "stream", "include_usage"),
    [
        ({}, False, False),
        ({"stream": True}, True, False),
        ({"stream": True, "stream_options": {}}, True, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, True, False),
        ({"stream": False, "stream_options": {"include_usage": True}}, False, False),
        ({"stream_options": {"include_usage": True}}, False, False),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_usage_in_a_stream_comes_only_when_asked_for(
    kind: Kind, change: dict[str, Any], stream: bool, include_usage: bool
) -> None:
    request = read(kind, **change)

    assert (request.stream, request.include_usage) == (stream, include_usage)
    assert not {"stream", "stream_options", "model"} & forwarded(request).keys()


def test_the_sampling_that_was_set_is_kept_for_the_log() -> None:
    assert read(temperature=0.5, seed=1, n=2, top_p=None, stop="x").sampling == {"temperature": 0.5, "seed": 1, "n": 2}


# completions and embeddings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1]]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_completion_that_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    assert refused("completion", **change).param == param


@pytest.mark.parametrize(
    ("change", "choices"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3], "n": 2}, 2),
        ({"echo": False, "suffix": ""}, 1),
    ],
)
def test_a_completion_takes_a_sequence_for_each_prompt_and_choice(change: dict[str, Any], choices: int) -> None:
    assert read("completion", **change).choices == choices


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], 2]}, "input"),
        ({"input": {}}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 1.5}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_an_embedding_that_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    assert refused("embedding", **change).param == param


@pytest.mark.parametrize("value", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]], ids=str)
def test_an_embedding_takes_texts_or_token_ids(value: Any) -> None:
    request = read("embedding", input=value, encoding_format="base64", dimensions=5, user="ada")

    assert forwarded(request) == {"input": value, "encoding_format": "base64", "dimensions": 5}
    assert request.ignored == ("user",)


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_how_much_to_reason_is_handed_to_the_engine(effort: str) -> None:
    request = read(reasoning_effort=effort, chat_template_kwargs={"enable_thinking": False, "style": "terse"})

    assert (request.effort, request.template_kwargs) == (effort, {"enable_thinking": False, "style": "terse"})
    assert forwarded(request)["reasoning_effort"] == effort
    assert forwarded(request)["chat_template_kwargs"] == {"enable_thinking": False, "style": "terse"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"reasoning_effort": "utmost"}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"documents": [1]}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {f"a{at}": 1 for at in range(33)}}, "chat_template_kwargs"),
    ],
)
def test_what_no_template_could_take_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    assert (refused(**change).param or "").startswith(param)


def test_a_rerank_is_a_request_like_others() -> None:
    body = json.dumps({"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "user": "ada"})
    request = read_request("rerank", body.encode())

    assert (request.kind, request.model, request.stream, request.ignored) == ("rerank", "m", False, ("user",))
    assert forwarded(request) == {"query": "q", "documents": ["a", "b"]}
    assert request.rerank is not None
    assert request.rerank.top_n == 1


# the head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "head"),
    [
        (b'{"model":"m"}', Head("m", None)),
        (b'{"stream":true,"messages":[1,{"deep":[]}],"model":"org/m"}', Head("org/m", True)),
        (b'{"model":"m","stream":false}', Head("m", False)),
        (b'{"model":"m","stream":null,"temperature":"hot"}', Head("m", None)),
    ],
)
def test_the_head_is_read_without_judging_the_rest(raw: bytes, head: Head) -> None:
    assert read_head(raw) == head


@pytest.mark.parametrize("raw", [b"{}", b'{"model":""}', b'{"stream":true}'])
def test_a_request_without_a_model_is_told_so(raw: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_head(raw)

    assert (caught.value.param, caught.value.code) == ("model", "missing_model_field")


@pytest.mark.parametrize(
    ("raw", "param"),
    [(b'{"model":5}', "model"), (b'{"model":null}', "model"), (b'{"model":"m","stream":1}', "stream"), (b"[", None)],
)
def test_a_head_of_the_wrong_type_is_refused(raw: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read_head(raw)

    assert caught.value.param == param


# what holds for all -----------------------------------------------------------------------------------------------

ALLOWED: dict[Kind, set[str]] = {
    "chat": {
        *(
            "messages",
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "n",
            "seed",
        ),
        *("stop", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "tools"),
        *("tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "chat_template_kwargs"),
    },
    "completion": {
        *("prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "n", "seed"),
        *("stop", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs"),
    },
    "embedding": {"input", "encoding_format", "dimensions"},
}
READ_HERE = {"model", "stream", "stream_options", "max_completion_tokens", "echo", "suffix", "best_of"}
REFUSED = {"chat_template", "grammar", "n_predict", "prompt_embeds"}
UNKNOWN = {"user", "store", "slot_id", "cache_prompt", "lora", "id_slot", "return_progress", "x-y"}
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "auto", "text", "float"])
FIELDS = st.dictionaries(
    st.sampled_from(sorted({*UNKNOWN, *REFUSED, *READ_HERE}.union(*ALLOWED.values()))) | st.text("ab_", min_size=1),
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["1", "type", "a"]), SCALARS, max_size=2),
    max_size=3,
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(["chat", "completion", "embedding"]), FIELDS)
def test_an_engine_never_sees_a_field_that_is_not_allowed(kind: Kind, fields: dict[str, Any]) -> None:
    try:
        request = read(kind, **fields)
    except BadRequest:
        return

    assert forwarded(request).keys() <= ALLOWED[kind]
    assert None not in forwarded(request).values()
    assert all(name.isascii() and name.isprintable() for name in request.ignored)


@settings(deadline=None)
@given(st.sampled_from(["chat", "completion", "embedding"]), FIELDS)
def test_every_field_is_forwarded_read_refused_or_named(kind: Kind, fields: dict[str, Any]) -> None:
    """Nothing is swallowed; null and false say of a field that is refused that it is not wanted."""
    try:
        request = read(kind, **fields)
    except BadRequest:
        return

    set_ = {name for name, value in fields.items() if value is not None}
    assert set_ <= {*forwarded(request), *request.ignored, *READ_HERE, *REFUSED}


@settings(deadline=None)
@given(st.sampled_from(["chat", "completion", "embedding"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(kind: Kind, raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(kind, raw)


def recorded() -> list[Any]:
    """Return what real clients sent to a path that is ours, if the recordings are at hand."""
    return [
        pytest.param(KINDS[call["path"]], call["body"], id=f"{path.stem}-{at}")
        for path in sorted(RECORDINGS.glob("*.json"))
        for at, call in enumerate(json.loads(path.read_text()))
        if call["path"] in KINDS and call["body"] is not None
    ]


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings of real clients are not beside this checkout")
@pytest.mark.parametrize(("kind", "sent"), recorded())
def test_what_real_clients_send_is_accepted(kind: Kind, sent: dict[str, Any]) -> None:
    raw = json.dumps(sent).encode()
    request = read_request(kind, raw)

    assert read_head(raw).model == request.model == sent["model"]
    assert forwarded(request).keys() <= ALLOWED[kind]


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": "5"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": {"a": [1]}, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_head_tells_how_long_an_answer_may_get(fields: dict[str, Any], limit: int | None) -> None:
    """What is no number there is for the node to refuse: the gateway only sets tokens aside."""
    assert read_head(json.dumps({"model": "m", **fields}).encode()).limit == limit


def test_the_paths_are_those_of_openai() -> None:
    assert KINDS[CHAT] == "chat"
    assert list(KINDS) == ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"]


def test_an_assistants_last_message_can_be_left_open_and_no_other() -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hel"}]

    assert forwarded(read(messages=begun, continue_final_message=True))["continue_final_message"] is True
    assert refused(continue_final_message=True).param == "continue_final_message"


def test_nulls_of_tools_and_messages_do_not_reach_a_template() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": None}}
    request = forwarded(read(messages=[{"role": "user", "content": "hi", "name": None}], tools=[tool]))

    assert request["messages"] == [{"role": "user", "content": "hi"}]
    assert request["tools"] == [{"type": "function", "function": {"name": "f"}}]
