"""The whole answer is the collected stream: fold an engine's chunks into one `chat.completion` or `text_completion`."""

from __future__ import annotations

from typing import Any

from cortex.wire.engine_api import Kind, Usage
from cortex.wire.json import decode_any, encode

_HEAD = ("id", "created", "model", "system_fingerprint")


class Collector:
    """Fold chunks as they come; `answer()` once they are all there."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: bytes) -> None:
        """Fold one chunk in."""
        value = decode_any(chunk)
        if not self._head:
            self._head = {key: held for key, held in value.items() if key in _HEAD}
        for choice in value.get("choices", ()):
            if self._kind == "chat":
                self._add_chat(choice)
            else:
                self._add_text(choice)

    def answer(self, usage: Usage) -> bytes:
        """Return the whole answer with its exact *usage*."""
        return encode(
            {
                "object": "chat.completion" if self._kind == "chat" else "text_completion",
                **self._head,
                "choices": [_closed(self._choices[index]) for index in sorted(self._choices)],
                "usage": usage_object(usage),
            }
        )

    def _add_chat(self, choice: dict[str, Any]) -> None:
        held = self._choices.setdefault(
            choice["index"],
            {
                "index": choice["index"],
                "message": {"role": "assistant", "content": None},
                "logprobs": None,
                "finish_reason": None,
            },
        )
        delta, message = choice.get("delta") or {}, held["message"]
        for key in ("content", "reasoning_content", "refusal"):
            if delta.get(key) is not None:
                message[key] = (message.get(key) or "") + delta[key]
        for call in delta.get("tool_calls") or ():
            _add_call(message.setdefault("tool_calls", []), call)
        _add_end(held, choice)
        if choice.get("logprobs"):
            tokens = held["logprobs"] = held["logprobs"] or {"content": []}
            tokens["content"].extend(choice["logprobs"].get("content") or ())

    def _add_text(self, choice: dict[str, Any]) -> None:
        held = self._choices.setdefault(
            choice["index"], {"index": choice["index"], "text": "", "logprobs": None, "finish_reason": None}
        )
        held["text"] += choice.get("text") or ""
        _add_end(held, choice)
        if choice.get("logprobs"):
            sofar = held["logprobs"] = held["logprobs"] or {}
            for key, values in choice["logprobs"].items():
                sofar[key] = [*sofar.get(key, []), *values] if isinstance(values, list) else values


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return *usage* as OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_chunk(last: bytes, usage: Usage) -> bytes:
    """Return the chunk that carries *usage*, with the ids of *last*, any chunk of the same stream."""
    head = {key: value for key, value in decode_any(last).items() if key in (*_HEAD, "object")}
    return encode({**head, "choices": [], "usage": usage_object(usage)})


def _add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    index = delta.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], delta.get("function") or {}
    call["id"] = delta.get("id") or call["id"]
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _add_end(held: dict[str, Any], choice: dict[str, Any]) -> None:
    if choice.get("finish_reason") is not None:
        held["finish_reason"] = choice["finish_reason"]
        if choice.get("stop_reason") is not None:
            held["stop_reason"] = choice["stop_reason"]


def _closed(choice: dict[str, Any]) -> dict[str, Any]:
    """Return *choice* with text where a client expects text: null content only beside tool calls."""
    message = choice.get("message")
    if message is not None and message["content"] is None and not message.get("tool_calls"):
        message["content"] = ""
    return choice
