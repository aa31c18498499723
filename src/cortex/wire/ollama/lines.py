"""The lines of an answer: NDJSON with the pieces in `message`, for a chat, or at the top, for a generation.

Clients cut lines where Unicode does, so its line breaks that JSON may have as they are go out escaped. Every line of an
answer has the same `created_at`. All counts and durations (ns) are there at the end; what is not known is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cortex.wire import json
from cortex.wire.engine_api import Timings
from cortex.wire.hub_stream import HubUsage
from cortex.wire.ollama.times import instant, nanoseconds

_BREAKS = ((b"\xc2\x85", rb"\u0085"), (b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"))
_REASONS = {"tool_calls": "stop"}


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, or what of it has not been told yet."""

    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)


class Lines:
    """Write the lines of one answer of *model*, begun at *created_at* (seconds since 1970)."""

    def __init__(self, model: str, created_at: float, *, chat: bool) -> None:
        self._chat = chat
        self._head = {"model": model, "created_at": instant(created_at)}
        place = b'"message":{"role":"assistant","content":' if chat else b'"response":'
        self._text = unbroken(b"%b,%b" % (json.encode(self._head)[:-1], place))
        self._thinking = self._text + b'"","thinking":'
        self._end = b'},"done":false}\n' if chat else b',"done":false}\n'

    def text(self, piece: str) -> bytes:
        """Return the line of *piece* of the answer's text."""
        return b"%b%b%b" % (self._text, unbroken(json.encode(piece)), self._end)

    def thinking(self, piece: str) -> bytes:
        """Return the line of *piece* of the model's reasoning."""
        return b"%b%b%b" % (self._thinking, unbroken(json.encode(piece)), self._end)

    def told(self, said: Said) -> bytes:
        """Return the line of a piece that is all of *said*."""
        return self._line({**self._said(said), "done": False})

    def last(self, said: Said, reason: str, counts: dict[str, int]) -> bytes:
        """Return the line that ends an answer, which may be the only one, for the hub's *reason*."""
        return self._line({**self._said(said), "done": True, "done_reason": _REASONS.get(reason, reason), **counts})

    def _said(self, said: Said) -> dict[str, Any]:
        more: dict[str, Any] = {"thinking": said.thinking} if said.thinking else {}
        if said.calls:
            more["tool_calls"] = said.calls
        if self._chat:
            return {"message": {"role": "assistant", "content": said.text, **more}}
        return {"response": said.text, **more}

    def _line(self, fields: dict[str, Any]) -> bytes:
        return unbroken(json.encode({**self._head, **fields})) + b"\n"


def counts_of(usage: HubUsage | None, timings: Timings | None, load_ms: float) -> dict[str, int]:
    """Return the counts (tokens) and durations (ns) that end an answer."""
    known, took = usage or HubUsage(), timings or Timings()
    return {
        "total_duration": nanoseconds(load_ms + took.queue_ms + took.prefill_ms + took.decode_ms),
        "load_duration": nanoseconds(load_ms),
        "prompt_eval_count": known.prompt_tokens,
        "prompt_eval_duration": nanoseconds(took.prefill_ms),
        "eval_count": known.completion_tokens,
        "eval_duration": nanoseconds(took.decode_ms),
    }


def unbroken(raw: bytes) -> bytes:
    """Return the JSON *raw* on one line, wherever a client sees lines end."""
    if raw.isascii():
        return raw
    for character, escape in _BREAKS:
        raw = raw.replace(character, escape)
    return raw
