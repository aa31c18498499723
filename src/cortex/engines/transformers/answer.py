"""One choice of an answer: from the tokens of its sequence to the chunks that its client gets. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cortex.engines.transformers.chunks import Chunks
from cortex.engines.transformers.detokenizer import Detokenizer
from cortex.engines.transformers.markup import Marks, Piece
from cortex.engines.transformers.prompts import Prompts
from cortex.engines.transformers.sampling import Chosen
from cortex.engines.transformers.stops import StopStrings

Chunk = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """Owns what of one choice is not told yet. *marks* are read in chats alone."""

    index: int
    chunks: Chunks
    prompts: Prompts
    text: Detokenizer
    stops: StopStrings
    marks: Marks | None
    finish_reason: str | None = None
    tokens: int = 0
    _before: int | None = None
    _logprobs: list[dict[str, Any]] = field(default_factory=list)

    def take(self, chosen: Chosen, *, is_stop: bool) -> Iterator[Chunk]:
        """Yield what one token brings; a token that *is_stop* has no text. A stop string ends the answer."""
        if not self.tokens:
            yield from self.chunks.opening(self.index)
        self.tokens += 1
        text = "" if is_stop else self.text.feed(chosen.token)
        if chosen.logprob is not None and not is_stop:
            self._logprobs.append(self._entry(chosen, chosen.logprob, text))
        self._before = chosen.token
        yield from self._show(self.stops.feed(text))
        if self.stops.stopped_by is not None:
            yield from self.end("stop")

    def end(self, reason: str) -> Iterator[Chunk]:
        """Yield what was held back, and the last chunk."""
        if not self.tokens:
            yield from self.chunks.opening(self.index)
        yield from self._show(self.stops.flush())
        if self.marks is not None:
            yield from self._pieces(self.marks.flush())
            reason = "tool_calls" if self.marks.called and reason == "stop" else reason
        if self._logprobs:
            yield self._chunk(None)
        self.finish_reason = reason
        yield self.chunks.end(self.index, reason, self.stops.stopped_by)

    def _show(self, text: str) -> Iterator[Chunk]:
        if self.marks is not None:
            yield from self._pieces(self.marks.feed(text))
        elif text:
            yield self._chunk(text)

    def _pieces(self, pieces: Iterator[Piece]) -> Iterator[Chunk]:
        for piece in pieces:
            yield self._chunk(piece)

    def _chunk(self, shown: Piece | str | None) -> Chunk:
        logprobs, self._logprobs = self._logprobs or None, []
        if self.marks is None:
            return self.chunks.text(self.index, shown if isinstance(shown, str) else "", logprobs)
        assert not isinstance(shown, str)
        return self.chunks.piece(self.index, shown, logprobs)

    def _entry(self, chosen: Chosen, logprob: float, text: str) -> dict[str, Any]:
        """Return the log probabilities of one token; the text is what it completes, so that the entries join to it."""
        top = [_entry(self.prompts.piece(token, self._before), value) for token, value in chosen.top]
        if top and all(token != chosen.token for token, _ in chosen.top) and self.marks is None:
            top.append(_entry(text, logprob))
        renamed = [
            _entry(text, value) if token == chosen.token else entry
            for entry, (token, value) in zip(top, chosen.top, strict=False)
        ]
        return {**_entry(text, logprob), "top_logprobs": renamed + top[len(chosen.top) :]}


def _entry(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "replace"))}
