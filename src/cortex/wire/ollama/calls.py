"""Tool calls, which Ollama sends whole: their pieces are collected, and told once the answer is over.

A call's arguments are an object. Where the model wrote anything else, or was cut short, there is no call to be made:
its text, as the model wrote it, becomes text of the answer, `{"name": "f", "arguments": …}`, for the client to see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from cortex.wire import json
from cortex.wire.hub_stream import Call

_object = msgspec.json.Decoder(dict[str, Any])


@dataclass(slots=True)
class _Pieces:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "".join(self.arguments)


class Calls:
    """Take pieces in any order; `whole()` and `spoiled()` once they are all there."""

    def __init__(self) -> None:
        self._calls: dict[int, _Pieces] = {}

    def add(self, at: int, piece: Call) -> None:
        """Take *piece* of the call *at*."""
        call = self._calls.setdefault(at, _Pieces())
        call.id, call.name = call.id or piece.id or "", call.name or piece.name
        call.arguments.append(piece.arguments)

    def whole(self) -> list[dict[str, Any]]:
        """Return the calls that can be made, in the order of their indexes."""
        made = [(call, _read(call)) for _, call in sorted(self._calls.items())]
        good = [(call, arguments) for call, arguments in made if arguments is not None]
        return [
            {
                "id": call.id or f"call_{at}",
                "function": {"index": at, "name": call.name, "arguments": arguments},
            }
            for at, (call, arguments) in enumerate(good)
        ]

    def spoiled(self) -> str:
        """Return the text of what the model meant as calls and cannot be made, one a line."""
        bad = [call for _, call in sorted(self._calls.items()) if _read(call) is None]
        return "\n".join(
            f'{{"name": {json.encode(call.name).decode()}, "arguments": {call.text()}}}'
            for call in bad
            if call.name or call.text()
        )


def _read(call: _Pieces) -> dict[str, Any] | None:
    """Return the arguments of *call*, none at all being an empty object; None if it cannot be made."""
    if not call.name:
        return None
    try:
        return _object.decode(call.text() or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return None
