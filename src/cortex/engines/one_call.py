"""`parallel_tool_calls: false` whatever the model writes: of the calls of each choice the first one goes through."""

from __future__ import annotations

from typing import Any


class OneCall:
    """Takes the other calls out of chat chunks as they come."""

    finish_reason: str | None = None

    def translate(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return *chunk* without what belongs to a second call or a later one; nothing if it has nothing else."""
        choices = [kept for choice in chunk.get("choices", ()) if (kept := _first_call(choice)) is not None]
        return [{**chunk, "choices": choices}] if choices else []


def _first_call(choice: dict[str, Any]) -> dict[str, Any] | None:
    delta = choice.get("delta") or {}
    calls = delta.get("tool_calls")
    if not calls:
        return choice
    first = [call for call in calls if call.get("index", 0) == 0]
    rest = {name: value for name, value in delta.items() if name != "tool_calls"}
    if not first and not rest and choice.get("finish_reason") is None:
        return None
    return {**choice, "delta": {**rest, "tool_calls": first} if first else rest}
