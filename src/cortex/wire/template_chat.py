"""A chat in the words that templates know: roles, calls and tools that they would stumble over are put in those."""

from __future__ import annotations

from typing import Any

import msgspec

from cortex.wire import json

_ROLES = {"developer": "system", "function": "tool"}


def with_known_words(raw: msgspec.Raw) -> msgspec.Raw:
    """Return messages with `developer` as `system`, `function` as `tool`, a type for each call, no null but content."""
    return msgspec.Raw(json.encode([_known(message) for message in json.decode_any(bytes(raw))]))


def only_functions(raw: msgspec.Raw) -> msgspec.Raw:
    """Return those of the tools that are functions, without what they only say null of."""
    tools = (tool for tool in json.decode_any(bytes(raw)) if tool.get("function") is not None)
    return msgspec.Raw(json.encode([{**_told(tool), "function": _told(tool["function"])} for tool in tools]))


def has_null(raw: msgspec.Raw) -> bool:
    """Return whether *raw* may have a null in it: nothing to a client, and to a template no string."""
    return b"null" in bytes(raw)


def _known(message: dict[str, Any]) -> dict[str, Any]:
    known = {**_told(message), "role": _ROLES.get(message["role"], message["role"])}
    if "content" in message:
        known["content"] = message["content"]
    if known.get("tool_calls"):
        known["tool_calls"] = [{"type": "function", **_told(call)} for call in known["tool_calls"]]
    return known


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
