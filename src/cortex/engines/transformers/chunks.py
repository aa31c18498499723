"""The chunks of an answer in the hub dialect. Pure but for ids."""

from __future__ import annotations

import secrets
from typing import Any

from cortex.engines.transformers.markup import Called, Piece, Said, Thought


class Chunks:
    """Writes the chunks of one request as objects; *kind* is `chat` or `completion`."""

    def __init__(self, kind: str, model: str, created: int, fingerprint: str) -> None:
        chat = kind == "chat"
        self.kind = kind
        self._head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._calls: dict[int, int] = {}

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Return what comes before the first token of choice *index*."""
        return [self._chat(index, {"role": "assistant", "content": ""})] if self.kind == "chat" else []

    def text(self, index: int, text: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Return the chunk with *text* of a completion."""
        return self._chunk(index, {"text": text}, logprobs)

    def piece(self, index: int, piece: Piece | None, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
        """Return the chunk with one *piece* of a chat; none is for log probabilities alone."""
        match piece:
            case Said():
                return self._chat(index, {"content": piece.text}, logprobs)
            case Thought():
                return self._chat(index, {"reasoning_content": piece.text}, logprobs)
            case Called():
                return self._chat(index, {"tool_calls": [self._call(index, piece)]}, logprobs)
            case None:
                return self._chat(index, {}, logprobs)

    def end(self, index: int, reason: str, stopped_by: str | None) -> dict[str, Any]:
        """Return the last chunk of choice *index*, which names the stop string as vLLM does."""
        body: dict[str, Any] = {"delta": {}} if self.kind == "chat" else {"text": ""}
        chunk = self._chunk(index, body, None, reason)
        if stopped_by is not None:
            chunk["choices"][0]["stop_reason"] = stopped_by
        return chunk

    def _call(self, index: int, call: Called) -> dict[str, Any]:
        at = self._calls[index] = self._calls.get(index, -1) + 1
        function = {"name": call.name, "arguments": call.arguments}
        return {"index": at, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}

    def _chat(self, index: int, delta: dict[str, Any], logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        return self._chunk(index, {"delta": delta}, logprobs)

    def _chunk(
        self, index: int, body: dict[str, Any], logprobs: list[dict[str, Any]] | None, reason: str | None = None
    ) -> dict[str, Any]:
        told = {"content": logprobs} if logprobs is not None else None
        return {**self._head, "choices": [{"index": index, **body, "logprobs": told, "finish_reason": reason}]}
