from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.core.errors import BadRequest
from cortex.wire.anthropic.schema import Tool, ToolChoice
from cortex.wire.anthropic.tools import hub_choice, hub_tools

F = {"name": "f", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def tools(*given: dict[str, Any]) -> tuple[Any, set[str]]:
    ignored: set[str] = set()
    functions = hub_tools(msgspec.json.decode(msgspec.json.encode(given), type=list[Tool]), ignored)
    return msgspec.json.decode(msgspec.json.encode(functions)), ignored


def choice(functions: list[Any], **fields: Any) -> dict[str, Any]:
    return hub_choice(msgspec.convert(fields, ToolChoice), functions)


@pytest.mark.parametrize(
    ("tool", "extra"),
    [
        (F, {}),
        ({**F, "type": "custom"}, {}),
        ({**F, "type": None, "description": "d", "strict": True}, {"description": "d", "strict": True}),
        ({**F, "description": ""}, {"description": ""}),
        ({**F, "input_examples": [{}]}, {}),
    ],
)
def test_a_tool_of_the_clients_own_is_a_function(tool: dict[str, Any], extra: dict[str, Any]) -> None:
    assert tools(tool)[0] == [{"type": "function", "function": {**FUNCTION["function"], **extra}}]


def test_a_schema_goes_out_as_it_came() -> None:
    body = b'[{"name":"f","input_schema":{"maximum" : 1e400, "a":9007199254740993}}]'

    functions = hub_tools(msgspec.json.decode(body, type=list[Tool]), set())

    assert b'{"maximum" : 1e400, "a":9007199254740993}' in msgspec.json.encode(functions)


def test_a_tool_of_anthropics_is_named_and_left_out() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}

    assert tools(search, F, {"type": "bash_20250124", "name": "bash"}) == (
        [FUNCTION],
        {"tools.web_search_20250305", "tools.bash_20250124"},
    )


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ([{"input_schema": {}}], "tools.0.name"),
        ([F, {**F, "name": "a b"}], "tools.1.name"),
        ([{**F, "name": "x" * 129}], "tools.0.name"),
        ([{"name": "f"}], "tools.0.input_schema"),
        ([{"name": "f", "input_schema": []}], "tools.0.input_schema"),
        ([F, F], "tools"),
    ],
)
def test_a_tool_that_cannot_be_called_is_refused_by_name(given: list[dict[str, Any]], where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        tools(*given)

    assert caught.value.param == where


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"type": "any", "disable_parallel_tool_use": False}, {"tool_choice": "required"}),
    ],
)
def test_a_choice_of_tools_is_the_hubs(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    assert choice([FUNCTION], **asked) == expected


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_choice_that_forces_nothing_needs_no_tools(kind: str) -> None:
    assert choice([], type=kind, disable_parallel_tool_use=True) == {}


@pytest.mark.parametrize(
    ("functions", "asked", "where"),
    [
        ([], {"type": "any"}, "tool_choice"),
        ([], {"type": "tool", "name": "f"}, "tool_choice"),
        ([FUNCTION], {"type": "tool", "name": "web_search"}, "tool_choice.name"),
        ([FUNCTION], {"type": "tool"}, "tool_choice.name"),
    ],
)
def test_a_call_that_cannot_be_made_is_not_forced(functions: list[Any], asked: dict[str, Any], where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        choice(functions, **asked)

    assert caught.value.param == where
