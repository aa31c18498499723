"""The hub's unary answer as a message, and what it shares with a stream: ids, usage, and why the answer ended.

A unary answer does not tell in which order its parts came: thinking is first, then text, then calls.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cortex.core.errors import UpstreamFailed
from cortex.wire import json
from cortex.wire.anthropic.thinking import Display, shown, signature_of
from cortex.wire.hub_stream import Call, HubUsage, decode_chunk
from cortex.wire.translation import Opening

_REASONS = {"length": "max_tokens", "content_filter": "refusal"}

_arguments = msgspec.json.Decoder(dict[str, Any])


def read_answer(answer: bytes, model: str, stops: frozenset[str], display: Display) -> bytes:
    """Return *answer*, a `chat.completion`, as a message. Raises UpstreamFailed if it cannot be read."""
    read = decode_chunk(answer)
    choice = read.choice()
    if choice is None or choice.message is None or choice.finish_reason is None:
        raise UpstreamFailed("the node's answer has no message that was finished")
    message, calls = choice.message, [call for call in choice.message.tool_calls or () if call.name]
    content: list[dict[str, Any]] = []
    if message.reasoning_content and display is not Display.NOTHING:
        content.append(thinking_block(message.reasoning_content, display))
    if message.content:
        content.append({"type": "text", "text": message.content})
    content += [tool_block(at, call) for at, call in enumerate(calls)]
    reason, stop = stop_of(choice.finish_reason, choice.stop_reason, stops, called=bool(calls))
    head = message_head(read.id, read.model or model)
    counts = usage_object(read.usage, None)
    return json.encode({**head, "content": content, "stop_reason": reason, "stop_sequence": stop, "usage": counts})


def message_head(chunk_id: str, model: str) -> dict[str, Any]:
    """Return the first fields of a message that the hub knows as *chunk_id*."""
    return {"id": f"msg_{chunk_id.removeprefix('chatcmpl-')}", "type": "message", "role": "assistant", "model": model}


def thinking_block(text: str, display: Display) -> dict[str, Any]:
    """Return the whole block that the reasoning *text* is shown as."""
    return {"type": "thinking", "thinking": shown(text, display), "signature": signature_of(text, display)}


def tool_block(at: int, call: Call) -> dict[str, Any]:
    """Return *call*, the one numbered *at*, as a block."""
    return {"type": "tool_use", "id": call.id or f"call_{at}", "name": call.name, "input": input_of(call)}


def input_of(call: Call) -> dict[str, Any]:
    """Return the arguments of *call*; none if they are not an object, as in a call that `max_tokens` cut short."""
    try:
        return _arguments.decode(call.arguments)
    except (msgspec.MsgspecError, RecursionError):
        return {}


def usage_object(usage: HubUsage | None, opening: Opening | None) -> dict[str, int]:
    """Return Anthropic's `usage`, whose `input_tokens` leave out those that were read from the cache.

    The hub's *usage* is the last word; before it there is *opening*, or nothing that is known.
    """
    prompt = usage.prompt_tokens if usage else opening.prompt_tokens if opening else 0
    cached = usage.cached_tokens if usage else opening.cached_tokens if opening else 0
    return {
        "input_tokens": max(0, prompt - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens if usage else 0,
    }


def stop_of(reason: str, matched: str | int | None, stops: frozenset[str], *, called: bool) -> tuple[str, str | None]:
    """Return `stop_reason` and `stop_sequence`.

    The hub's `stop` means the end of a turn as well as a stop sequence. Which it was is known only where the engine
    says what *matched* in the choice's `stop_reason`, as vLLM does; else it is told as the end of the turn.
    """
    if reason == "stop" and isinstance(matched, str) and matched in stops:
        return "stop_sequence", matched
    return _REASONS.get(reason) or ("tool_use" if called else "end_turn"), None
