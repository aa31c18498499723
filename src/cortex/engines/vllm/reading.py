"""What vLLM's serving layer streams, as the chunks that every engine here emits. Pure."""

from __future__ import annotations

from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire.json import decode_any

_CHUNK = ("id", "object", "created", "model", "system_fingerprint")
_CHOICE = ("index", "text", "logprobs", "finish_reason")


class EngineFault(Exception):
    """vLLM failed at a request that is not to blame for it."""


class Reading:
    """One answer, fed line by line. *stops* are the client's stop strings."""

    def __init__(self, model: str, stops: list[str]) -> None:
        self._model, self._stops = model, stops
        self._called: set[int] = set()
        self.completion_tokens: int | None = None
        self.finish_reason: str | None = None

    def feed(self, line: str) -> dict[str, Any] | None:
        """Return the chunk that an SSE *line* is, if it is one of the client's. Raises BadRequest or EngineFault."""
        text = line.removeprefix("data: ").strip()
        if not text or text == "[DONE]":
            return None
        event = decode_any(text.encode())
        if event.get("error") is not None:
            raise fault_of(event["error"])
        if event.get("usage") is not None:
            self.completion_tokens = event["usage"].get("completion_tokens") or 0
        if not event.get("choices"):
            return None
        head = {name: event[name] for name in _CHUNK if event.get(name) is not None}
        return {**head, "model": self._model, "choices": [self._choice(choice) for choice in event["choices"]]}

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        told = {name: choice[name] for name in _CHOICE if name in choice}
        if (delta := choice.get("delta")) is not None:
            told["delta"] = _delta(delta)
            if delta.get("tool_calls"):
                self._called.add(choice["index"])
        reason = choice.get("finish_reason")
        if reason == "stop" and choice["index"] in self._called:
            reason = "tool_calls"  # vLLM says so only of calls that the model was free to make
        told["finish_reason"] = reason
        self.finish_reason = self.finish_reason or reason
        if choice.get("stop_reason") in self._stops:
            told["stop_reason"] = choice["stop_reason"]
        return told


def fault_of(error: dict[str, Any]) -> Exception:
    """Return *error*, of vLLM's envelope, as what an engine raises: a BadRequest if the request is to blame."""
    code, message = error.get("code"), str(error.get("message") or "vLLM refused the request")
    if isinstance(code, int) and 400 <= code < 500:
        return BadRequest(message, param=error.get("param"))
    return EngineFault(message)


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    """Return *delta* with reasoning by the name that clients know."""
    told = {name: value for name, value in delta.items() if name != "reasoning" and value not in (None, [])}
    if delta.get("reasoning"):
        told["reasoning_content"] = delta["reasoning"]
    return told
