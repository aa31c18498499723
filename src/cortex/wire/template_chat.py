"""A chat in the words that templates know: roles, calls and tools that they would stumble over are put in those."""

from __future__ import annotations

from typing import Any

import msgspec

from cortex.wire import json

_ROLES = {"developer": "system", "function": "tool"}


def with_known_words(raw: msgspec.Raw) -> msgspec.Raw:
    """Return messages with `developer` as `system`, `function` as `tool`, and a type for calls that have none."""
    return msgspec.Raw(json.encode([_known(message) for message in json.decode_any(bytes(raw))]))


def only_functions(raw: msgspec.Raw) -> msgspec.Raw:
    """Return those of the tools that are functions."""
    return msgspec.Raw(json.encode([tool for tool in json.decode_any(bytes(raw)) if tool.get("function") is not None]))


def _known(message: dict[str, Any]) -> dict[str, Any]:
    known = {**message, "role": _ROLES.get(message["role"], message["role"])}
    if known.get("tool_calls"):
        known["tool_calls"] = [{"type": "function", **call} for call in known["tool_calls"]]
    return known
