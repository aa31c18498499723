"""Log probabilities of `/v1/completions` in that API's own shape; llama.cpp writes them as in a chat.

Source: the OpenAI API reference, the `logprobs` object of the legacy completions.
"""

from __future__ import annotations

from typing import Any


class LegacyLogprobs:
    """Rewrite chunks as they come; `text_offset` counts the characters of each choice's text."""

    finish_reason: str | None = None

    def __init__(self) -> None:
        self._offset: dict[int, int] = {}

    def translate(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return *chunk* with its log probabilities as parallel lists."""
        for choice in chunk.get("choices", ()):
            tokens = (choice.get("logprobs") or {}).get("content")
            if tokens is not None:
                choice["logprobs"] = self._lists(choice["index"], tokens)
        return [chunk] if chunk.get("choices") else []

    def _lists(self, index: int, tokens: list[dict[str, Any]]) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset.get(index, 0))
            self._offset[index] = offsets[-1] + len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
            "text_offset": offsets,
        }
