"""The chunks of an answer as OpenAI streams them, one token of each choice a step. Pure but for ids."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from cortex.engines import simulated_text as texts
from cortex.wire import json


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer, and what the client sees of it."""

    text: str
    delta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the *n* answers. *generated* counts the tokens of the stop string *stopped_by*, which nobody sees."""

    index: int
    tokens: list[Token]
    generated: int
    finish_reason: str
    role: dict[str, Any] | None = None
    stopped_by: str | None = None

    @property
    def end(self) -> dict[str, Any]:
        """What its last chunk says of why it ended; the stop string as vLLM does."""
        stop = {} if self.stopped_by is None else {"stop_reason": self.stopped_by}
        return {"finish_reason": self.finish_reason, **stop}


class ChatShape:
    """How a chat's chunks look; with *top* alternatives beside each log probability, or none where it is None."""

    def __init__(self, model: str, created: int, top: int | None) -> None:
        self._envelope = _Envelope("chatcmpl-", "chat.completion.chunk", model, created)
        self._top = top

    def opening(self, choice: Choice) -> list[bytes]:
        """Return the chunks before the first token of *choice*."""
        return [self._chunk(choice, choice.role or {})]

    def token(self, choice: Choice, at: int) -> bytes:
        """Return the chunk of the token *at* of *choice*."""
        token = choice.tokens[at]
        asked = self._top is not None and "content" in token.delta
        return self._chunk(choice, token.delta, logprobs=self._logprobs(token.text, at) if asked else None)

    def end(self, choice: Choice) -> bytes:
        """Return the chunk with the finish reason of *choice*."""
        return self._envelope.wrap({"index": choice.index, "delta": {}, "logprobs": None, **choice.end})

    def _chunk(self, choice: Choice, delta: dict[str, Any], logprobs: Any = None) -> bytes:
        return self._envelope.wrap({"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": None})

    def _logprobs(self, text: str, at: int) -> dict[str, Any]:
        top = [_logprob_entry(each, value) for each, value in texts.alternatives(text, at, self._top or 0)]
        return {"content": [{**_logprob_entry(text, texts.logprob(text, at)), "top_logprobs": top}]}


class CompletionShape:
    """How a completion's chunks look, log probabilities in their legacy form."""

    def __init__(self, model: str, created: int, top: int | None) -> None:
        self._envelope = _Envelope("cmpl-", "text_completion", model, created)
        self._top = top
        self._offsets: dict[int, list[int]] = {}

    def opening(self, choice: Choice) -> list[bytes]:
        """Return the chunks before the first token of *choice*."""
        self._offsets[choice.index] = list(accumulate((len(token.text) for token in choice.tokens), initial=0))
        return []

    def token(self, choice: Choice, at: int) -> bytes:
        """Return the chunk of the token *at* of *choice*."""
        text = choice.tokens[at].text
        logprobs = self._logprobs(text, at, self._offsets[choice.index][at]) if self._top is not None else None
        return self._envelope.wrap({"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": None})

    def end(self, choice: Choice) -> bytes:
        """Return the chunk with the finish reason of *choice*."""
        return self._envelope.wrap({"index": choice.index, "text": "", "logprobs": None, **choice.end})

    def _logprobs(self, text: str, at: int, offset: int) -> dict[str, Any]:
        return {
            "tokens": [text],
            "token_logprobs": [texts.logprob(text, at)],
            "top_logprobs": [dict(texts.alternatives(text, at, self._top or 0))],
            "text_offset": [offset],
        }


class _Envelope:
    """What every chunk of a stream has around its choice, encoded once."""

    def __init__(self, prefix: str, kind: str, model: str, created: int) -> None:
        head = {"id": prefix + secrets.token_hex(12), "object": kind, "created": created, "model": model}
        self._head = json.encode({**head, "system_fingerprint": "simulated", "choices": []})[:-2]

    def wrap(self, choice: dict[str, Any]) -> bytes:
        return b"%b%b]}" % (self._head, json.encode(choice))


Shape = ChatShape | CompletionShape


def steps(choices: list[Choice], shape: Shape) -> Iterator[list[bytes]]:
    """Yield the chunks of each step: one token of every choice that is not yet at its end."""
    for at in range(max(len(choice.tokens) for choice in choices)):
        running = [choice for choice in choices if at < len(choice.tokens)]
        chunks = [shape.token(choice, at) for choice in running]
        yield chunks + [shape.end(choice) for choice in running if at + 1 == len(choice.tokens)]


def _logprob_entry(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode("utf-8", "replace"))}
