"""The hub's end of a translation: chunks, whole streams, and the unary answer that a node collects from the same."""

from __future__ import annotations

import json
from typing import Any

from cortex.wire.collect import Collector
from cortex.wire.engine_api import Usage
from cortex.wire.sse import data_event

DONE = b"data: [DONE]\n\n"
HEAD = {"id": "chatcmpl-1f2e", "object": "chat.completion.chunk", "created": 1, "model": "served"}


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    """One chunk of the hub's stream, not yet an event."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": reason, **more}
    return json.dumps({**HEAD, "choices": [choice]}).encode()


def call(index: int, arguments: str = "", name: str | None = None) -> dict[str, Any]:
    """The delta of a tool call: its first one has a *name*."""
    head = {"id": f"call_{name}", "type": "function"} if name else {}
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"tool_calls": [{"index": index, **head, "function": function}]}


def usage_chunk(prompt: int = 12, completion: int = 5, cached: int = 4) -> bytes:
    """The chunk with the counts."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    return json.dumps({**HEAD, "choices": [], "usage": {**usage, **details}}).encode()


def hub_stream(*chunks: bytes) -> bytes:
    """A whole stream of the hub's."""
    return b"".join(data_event(each) for each in (*chunks, usage_chunk())) + DONE


def hub_answer(*chunks: bytes) -> bytes:
    """The unary answer that a node collects from the same *chunks*."""
    collector = Collector("chat")
    for each in chunks:
        collector.add(each)
    return collector.answer(Usage(12, 5, 4))
