from __future__ import annotations

from typing import Any

import pytest

from wire.responses.dialogue import Value, check_response, collected, ended, hub_body, read, refused

PARAMETERS = {"type": "object", "properties": {"x": {"type": "integer", "maximum": 2**53 - 1}}}


def function(name: str = "f", **more: Any) -> Value:
    return {"type": "function", "name": name, **more}


def namespace(name: str, *tools: Value) -> Value:
    return {"type": "namespace", "name": name, "description": f"About {name}.", "tools": list(tools)}


def names(body: Value) -> list[str]:
    return [tool["function"]["name"] for tool in body.get("tools", ())]


BOTH = [function("f"), namespace("ns", function("f"), {"type": "custom", "name": "c"})]


def test_a_function_goes_as_it_is() -> None:
    sent = function(description="does", parameters=PARAMETERS, strict=False, defer_loading=True)

    (tool,) = hub_body(tools=[sent])["tools"]

    assert tool == {
        "type": "function",
        "function": {"name": "f", "description": "does", "parameters": PARAMETERS, "strict": False},
    }


def test_a_namespace_is_flattened_and_its_description_kept() -> None:
    body = hub_body(tools=[namespace("ns", function("f", description="does"), function("g"))])

    assert names(body) == ["ns__f", "ns__g"]
    assert body["tools"][0]["function"]["description"] == "About ns.\n\ndoes"


def test_the_same_name_in_two_namespaces_is_two_tools() -> None:
    assert names(hub_body(tools=[function("f"), namespace("a", function("f")), namespace("b", function("f"))])) == [
        *("f", "a__f", "b__f")
    ]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}

    translation = read(tools=[{"type": "custom", "name": "c", "description": "does", "format": grammar}])
    (tool,) = hub_body(tools=[{"type": "custom", "name": "c", "description": "does", "format": grammar}])["tools"]

    assert tool["function"]["parameters"]["required"] == ["input"]
    assert tool["function"]["description"] == "does\n\nThe input matches this lark grammar:\nstart: /.+/"
    assert translation.ignored == ("tools.custom.format",)


@pytest.mark.parametrize(
    "kind", ["web_search", "file_search", "code_interpreter", "image_generation", "mcp", "computer_use_preview", "new"]
)
def test_a_tool_that_the_server_would_run_is_left_out_and_named(kind: str) -> None:
    translation = read(tools=[{"type": kind, "server_label": 3}, function()])

    assert translation.ignored == (f"tools.{kind}",)
    assert names(hub_body(tools=[{"type": kind}, namespace("ns", {"type": kind}, function())])) == ["ns__f"]


def test_without_tools_that_are_left_the_hub_hears_of_none() -> None:
    body = hub_body(tools=[{"type": "web_search"}], tool_choice="auto")

    assert not body.keys() & {"tools", "tool_choice"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_plain_choice_goes_as_it_is(choice: str) -> None:
    assert hub_body(tools=BOTH, tool_choice=choice)["tool_choice"] == choice


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "name": "f", "namespace": "ns"}, "ns__f"),
        ({"type": "function", "name": "ns__f"}, "ns__f"),
        ({"type": "custom", "name": "c"}, "ns__c"),
    ],
)
def test_a_forced_tool_is_forced_by_its_hub_name(choice: Value, name: str) -> None:
    body = hub_body(tools=BOTH, tool_choice=choice)

    assert body["tool_choice"] == {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_only_ones_left(mode: str) -> None:
    allowed = [{"type": "function", "name": "f", "namespace": "ns"}, {"type": "web_search"}]

    body = hub_body(tools=BOTH, tool_choice={"type": "allowed_tools", "mode": mode, "tools": allowed})

    assert (names(body), body["tool_choice"]) == (["ns__f"], mode)


def test_a_whole_namespace_may_be_allowed() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "ns"}]}

    assert names(hub_body(tools=BOTH, tool_choice=choice)) == ["ns__f", "ns__c"]


def test_forcing_a_tool_that_was_left_out_is_left_out_with_it() -> None:
    choice = {"type": "web_search_preview"}

    translation = read(tools=[{"type": "web_search_preview"}, function()], tool_choice=choice)
    body = hub_body(tools=[function()], tool_choice=choice)

    assert translation.ignored == ("tool_choice.web_search_preview", "tools.web_search_preview")
    assert body["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        ({"tools": [function("a b")]}, "tools[0].name"),
        ({"tools": [function("f"), function("f")]}, "tools[1].name"),
        ({"tools": [function("ns__f"), namespace("ns", function("f"))]}, "tools[1].tools[0].name"),
        ({"tools": [namespace("ns", function(parameters=3))]}, "tools[0].tools[0].parameters"),
        ({"tools": [namespace("n s", function("f"))]}, "tools[0].name"),
        ({"tools": [namespace("n" * 64, function("f" * 64))]}, "tools[0].tools[0].name"),
        ({"tools": [function()], "tool_choice": function("g")}, "tool_choice"),
        ({"tools": [function()], "tool_choice": {"type": "function"}}, "tool_choice"),
    ],
)
def test_a_tool_that_is_wrong_is_refused_by_its_place(fields: Value, param: str) -> None:
    assert refused(**fields).param == param


def test_the_answer_repeats_the_tools_that_the_model_had() -> None:
    response = collected(ended(), tools=[*BOTH, {"type": "web_search"}], tool_choice=function("f"))[-1]["response"]

    check_response(response)
    assert [tool["type"] for tool in response["tools"]] == ["function", "namespace"]
    assert response["tool_choice"] == function("f")
