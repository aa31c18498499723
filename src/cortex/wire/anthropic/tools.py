"""Anthropic's `tools` and `tool_choice` as the hub's.

A tool of the client's own has a schema and becomes a function. One of Anthropic's has none that a model here could be
told, or runs on servers that are not here: it is left out, and named as ignored.
"""

from __future__ import annotations

import re
from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire.anthropic.schema import Tool, ToolChoice

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def hub_tools(tools: list[Tool] | None, ignored: set[str]) -> list[dict[str, Any]]:
    """Return the functions among *tools*; the others are named in *ignored*. Raises BadRequest."""
    functions = []
    for at, tool in enumerate(tools or ()):
        if tool.type in (None, "custom"):
            functions.append(_function(tool, f"tools.{at}", ignored))
        else:
            ignored.add(f"tools.{tool.type}")
    names = [function["function"]["name"] for function in functions]
    if len(set(names)) != len(names):
        raise BadRequest("tools: Tool names must be unique.", param="tools")
    return functions


def hub_choice(choice: ToolChoice, functions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the hub's fields for *choice* among *functions*, of which there is at least one if it forces a call."""
    fields: dict[str, Any] = {}
    if functions:
        fields["tool_choice"] = "required" if choice.type == "any" else choice.type
    elif choice.type in ("any", "tool"):
        raise BadRequest(f"tool_choice: {choice.type!r} without any tools that can be called", param="tool_choice")
    if choice.type == "tool":
        if choice.name not in {function["function"]["name"] for function in functions}:
            name = (choice.name or "")[:60]
            raise BadRequest(f"tool_choice.name: Tool {name!r} not found in provided tools", param="tool_choice.name")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    if choice.disable_parallel_tool_use and functions:
        fields["parallel_tool_calls"] = False
    return fields


def _function(tool: Tool, where: str, ignored: set[str]) -> dict[str, Any]:
    if not _NAME.fullmatch(tool.name or ""):
        raise BadRequest(f"{where}.name: String should match pattern '^{_NAME.pattern}$'", param=f"{where}.name")
    if not bytes(tool.input_schema).startswith(b"{"):
        raise BadRequest(f"{where}.input_schema: expected a JSON schema", param=f"{where}.input_schema")
    if tool.cache_control is not None:
        ignored.add("cache_control")
    if tool.defer_loading is not None:
        ignored.add("tools.defer_loading")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    function |= {name: value for name in ("description", "strict") if (value := getattr(tool, name)) is not None}
    return {"type": "function", "function": function}
