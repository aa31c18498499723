"""Tokens back into text as they come; a character is told when it is whole."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tokenizers.decoders import DecodeStream


class Detokenizer:
    """Turns one sequence's tokens into text; special tokens are left out, but for those in *shown*."""

    def __init__(self, backend: Any, special: Collection[int], shown: Collection[int] = ()) -> None:
        self._backend, self._hidden = backend, frozenset(special) - frozenset(shown)
        self._stream = DecodeStream(skip_special_tokens=False)

    def feed(self, token: int) -> str:
        """Return the text that *token* completes; nothing while a character is not whole."""
        if token in self._hidden:
            return ""
        return self._stream.step(self._backend, token) or ""
