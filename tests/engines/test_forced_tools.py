from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.engines.forced_tools import ForcedCall, closed, forced_call
from cortex.wire.collect import Collector
from cortex.wire.engine_api import Usage

HEAD = {"id": "cmpl-1", "created": 5, "model": "m"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
# As pydantic writes it: the schema refers to parts of itself from its own root.
PERSON = {
    "type": "object",
    "properties": {"who": {"$ref": "#/$defs/Name"}, "all": {"type": "array", "items": {"$ref": "#/$defs/Name"}}},
    "$defs": {"Name": {"type": "string"}},
}


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **({"parameters": parameters} if parameters else {})}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def force(choice: Any, *tools: dict[str, Any], **more: Any) -> ForcedCall:
    forced = forced_call({"messages": [], "tools": list(tools), "tool_choice": choice, **more})
    assert forced is not None
    return forced


def piece(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, "text": text, "finish_reason": reason}]}


def deltas(forced: ForcedCall, *pieces: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the deltas that each of *pieces* became."""
    return [[chunk["choices"][0]["delta"] for chunk in forced.translate(each)] for each in pieces]


def answer(forced: ForcedCall, *pieces: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of the whole answer."""
    collector = Collector("chat")
    for each in pieces:
        for chunk in forced.translate(each):
            collector.add(json.dumps(chunk).encode())
    choices: list[dict[str, Any]] = json.loads(collector.answer(Usage()))["choices"]
    return choices


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_model_that_may_choose_is_not_forced(choice: str | None) -> None:
    assert forced_call({"tools": [tool("f")], "tool_choice": choice}) is None


def test_without_a_choice_nothing_is_forced() -> None:
    assert forced_call({"tools": [tool("f")]}) is None


@pytest.mark.parametrize(
    ("choice", "tools", "schema"),
    [
        (named("f"), [tool("f", CITY), tool("g")], CITY),
        ("required", [tool("f", CITY)], CITY),
        ("required", [tool("f")], {"type": "object"}),
        (named("f"), [tool("f", {})], {"type": "object"}),
    ],
)
def test_a_call_of_a_known_function_must_follow_its_parameters(
    choice: Any, tools: list[dict[str, Any]], schema: dict[str, Any]
) -> None:
    assert force(choice, *tools).schema == schema


def test_with_several_functions_the_text_names_the_one_it_calls() -> None:
    options = force("required", tool("f", CITY), tool("g")).schema["anyOf"]

    assert [option["properties"]["name"] for option in options] == [{"const": "f"}, {"const": "g"}]
    assert [option["properties"]["arguments"] for option in options] == [CITY, {"type": "object"}]
    assert all(option["required"] == ["name", "arguments"] for option in options)
    assert not any(option["additionalProperties"] for option in options)


def resolve(schema: dict[str, Any], reference: str) -> Any:
    node: Any = schema
    for part in reference.removeprefix("#/").split("/"):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return node


def test_references_of_a_schema_still_lead_into_it_among_several() -> None:
    tools = (tool("f", CITY), tool("g", PERSON))
    schema = force("required", *tools).schema
    arguments = schema["anyOf"][1]["properties"]["arguments"]

    for place in (arguments["properties"]["who"], arguments["properties"]["all"]["items"]):
        assert resolve(schema, place["$ref"]) == {"type": "string"}
    assert tools[1]["function"]["parameters"]["properties"]["who"] == {"$ref": "#/$defs/Name"}


def test_a_property_that_is_called_ref_is_no_reference() -> None:
    odd = {"type": "object", "properties": {"$ref": {"type": "string"}}, "description": "#/x"}

    schema = force("required", tool("f", odd), tool("g")).schema

    assert schema["anyOf"][0]["properties"]["arguments"] == {**odd, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object"}, {"type": "object"}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        (
            {"type": "object", "properties": {}, "additionalProperties": True},
            {"type": "object", "properties": {}, "additionalProperties": True},
        ),
        (
            {"type": "array", "items": {"type": "object", "properties": {}}},
            {"type": "array", "items": {"type": "object", "properties": {}, "additionalProperties": False}},
        ),
        ({"const": {"type": "object", "properties": {}}}, {"const": {"type": "object", "properties": {}}}),
        ({"type": "string"}, {"type": "string"}),
    ],
)
def test_an_object_is_closed_to_what_it_does_not_list_unless_it_says_so_itself(
    schema: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = json.dumps(schema)

    assert closed(schema) == expected
    assert json.dumps(schema) == before


@pytest.mark.parametrize("others", [[], [tool("g")]], ids=["one", "several"])
def test_a_deep_schema_is_no_problem(others: list[dict[str, Any]]) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}

    assert force("required", tool("f", deep), *others).schema


def test_only_sampling_goes_on_to_the_completion() -> None:
    forced = force(named("f"), tool("f"), temperature=0, seed=1, stop=["x"], parallel_tool_calls=True, logprobs=False)

    assert forced.sampling == {"temperature": 0, "seed": 1, "stop": ["x"]}


def test_logprobs_of_a_forced_call_are_refused_by_name() -> None:
    with pytest.raises(BadRequest) as caught:
        force(named("f"), tool("f"), logprobs=True)

    assert caught.value.param == "logprobs"


def test_a_named_call_streams_its_arguments_as_they_come() -> None:
    first, second, last = deltas(
        force(named("f"), tool("f", CITY)), piece('{"city"'), piece(':"Oslo"}'), piece("", "stop")
    )

    assert first[0] == {"role": "assistant", "content": None}
    (opening,) = first[1]["tool_calls"]
    assert (opening["index"], opening["type"], opening["function"]) == (0, "function", {"name": "f", "arguments": ""})
    assert opening["id"].startswith("call_")
    assert first[2:] + second == [
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ':"Oslo"}'}}]},
    ]
    assert last == [{}]


def test_every_chunk_has_the_head_of_the_chunk_it_comes_from() -> None:
    for chunk in force(named("f"), tool("f")).translate({**piece("{}", "stop"), "usage": None}):
        assert {key: chunk[key] for key in HEAD} == HEAD
        assert chunk["object"] == "chat.completion.chunk"
        assert "usage" not in chunk


def test_a_call_among_several_comes_when_it_is_whole() -> None:
    forced = force("required", tool("f", CITY), tool("g"))
    first, second, last = deltas(
        forced, piece('{"name":"f","argu'), piece('ments": {"city": "Øslo"}}'), piece("", "stop")
    )

    assert first == [{"role": "assistant", "content": None}]
    assert second == []
    (call,) = last[0]["tool_calls"]
    assert call["function"]["name"] == "f"
    assert json.loads(call["function"]["arguments"]) == {"city": "Øslo"}
    assert last[1] == {}


@pytest.mark.parametrize("tools", [[tool("f", CITY)], [tool("f", CITY), tool("g")]], ids=["one", "several"])
def test_a_whole_call_finishes_as_a_tool_call(tools: list[dict[str, Any]]) -> None:
    text = '{"city":"Oslo"}' if len(tools) == 1 else '{"name":"f","arguments":{"city":"Oslo"}}'
    forced = force("required", *tools)

    (choice,) = answer(forced, piece(text), piece("", "stop"))

    assert choice["finish_reason"] == forced.finish_reason == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"city":"Oslo"}'}


@pytest.mark.parametrize("reason", ["length", "stop"])
@pytest.mark.parametrize("tools", [[tool("f", CITY)], [tool("f", CITY), tool("g")]], ids=["one", "several"])
def test_a_call_that_was_cut_short_does_not_look_complete(tools: list[dict[str, Any]], reason: str) -> None:
    """By the limit on tokens, or by a stop string of the client's."""
    forced = force("required", *tools)

    (choice,) = answer(forced, piece('{"na'), piece("", reason))

    assert choice["finish_reason"] == forced.finish_reason == reason
    assert [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])] == (
        ['{"na'] if len(tools) == 1 else []
    )


def test_before_the_end_there_is_no_finish_reason() -> None:
    forced = force(named("f"), tool("f"))
    forced.translate(piece("{}"))

    assert forced.finish_reason is None


def test_several_choices_each_make_their_own_call() -> None:
    forced = force("required", tool("f", CITY), tool("g"))

    choices = answer(
        forced,
        piece('{"name":"g",', index=1),
        piece('{"name":"f","arguments":{"city":"Rome"}}'),
        piece('"arguments":{}}', index=1),
        piece("", "stop"),
        piece("", "stop", index=1),
    )

    calls = [choice["message"]["tool_calls"][0] for choice in choices]
    assert [call["function"]["name"] for call in calls] == ["f", "g"]
    assert calls[0]["id"] != calls[1]["id"]


def test_a_chunk_without_choices_stands_for_nothing() -> None:
    assert force(named("f"), tool("f")).translate({**HEAD, "choices": []}) == []


def test_a_schema_composed_of_parts_stays_open() -> None:
    part = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    other = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}

    assert closed({"allOf": [part, other]}) == {"allOf": [part, other]}
    assert closed({**part, "anyOf": [other]}) == {**part, "anyOf": [other]}
