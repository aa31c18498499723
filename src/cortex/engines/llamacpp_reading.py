"""What llama.cpp calls back with: which of it goes to the client, what one request adds up to, and whose a fault is."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.wire.engine_api import Finished, Timings, Usage
from cortex.wire.json import decode_any, encode

# An embedding's input that is too long has no error type of its own.
_TOO_LONG = re.compile(r"input \((\d+) tokens\) is too large to process.*current batch size: (\d+)")
_NOT_THE_CLIENTS = ("timings", "usage", "__verbose")


class EngineError(Exception):
    """llama.cpp failed in a way that is not the request's fault."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _PromptProgress(msgspec.Struct):
    total: int
    cache: int
    processed: int


class EndTimings(msgspec.Struct):
    """What the last chunk of a choice says of its time, in milliseconds, and of its tokens."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class Fault(msgspec.Struct):
    """What llama.cpp says went wrong; the counts are of a prompt that is too long."""

    message: str = ""
    code: int = 500
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _Verbose(msgspec.Struct):
    stopping_word: str = ""


class Peek(msgspec.Struct):
    """What we read of each object that llama.cpp calls back with."""

    choices: list[_Choice] = []
    created: int = 0
    prompt_progress: _PromptProgress | None = None
    timings: EndTimings | None = None
    error: Fault | None = None
    verbose: _Verbose | None = msgspec.field(default=None, name="__verbose")


_peek = msgspec.json.Decoder(Peek)


def peek(data: bytes) -> Peek:
    """Return what matters here of the object *data*."""
    return _peek.decode(data)


class Tally:
    """What one request adds up to: of *n* choices to each prompt, whose tokens count once; *stops* are the client's."""

    def __init__(self, n: int, stops: Collection[str] = ()) -> None:
        self._n, self._stops = n, stops
        self._created: int | None = None
        self._ends: list[EndTimings] = []
        self.reason: str | None = None

    def stamped(self, data: bytes, created: int) -> bytes:
        """Return the chunk *data* as created when the first one was; the binding stamps each with its own second."""
        if self._created is None:
            self._created = created
        if created == self._created:
            return data
        # Inside a text the quotes are escaped, so this can only be the chunk's own key.
        return data.replace(b'"created":%d' % created, b'"created":%d' % self._created, 1)

    def end(self, seen: Peek, reason: str) -> None:
        """Count the last chunk of a choice."""
        self._ends.append(seen.timings or EndTimings())
        self.reason = self.reason or reason

    def cleaned(self, data: bytes, seen: Peek) -> bytes:
        """Return the chunk *data* as it is the client's, with the stop string that ended it where vLLM names it."""
        if seen.timings is None and seen.verbose is None:
            return data
        chunk = {key: value for key, value in decode_any(data).items() if key not in _NOT_THE_CLIENTS}
        if seen.verbose is not None and seen.verbose.stopping_word in self._stops:
            chunk["choices"] = [{**each, "stop_reason": seen.verbose.stopping_word} for each in chunk["choices"]]
        return encode(chunk)

    def finished(self, request_id: str) -> Finished:
        """Return the end of the request. Raises EngineError if no choice came to one."""
        if self.reason is None:
            raise EngineError("llama.cpp ended the answer without a finish reason")
        prompt = sum(e.cache_n + e.prompt_n for e in self._ends) // self._n
        usage = Usage(prompt, sum(e.predicted_n for e in self._ends), self._ends[0].cache_n)
        timings = Timings(
            prefill_ms=max(e.prompt_ms for e in self._ends),
            decode_ms=max(e.predicted_ms for e in self._ends),
            cached_tokens=usage.cached_tokens,
        )
        return Finished(request_id, self.reason, usage, timings)


def fault_of(fault: Fault) -> Exception:
    """Return *fault* as what the engine raises: a RequestError if the request is to blame."""
    if fault.type == "exceed_context_size_error":
        return ContextLengthExceeded(fault.n_prompt_tokens, fault.n_ctx)
    if (too_long := _TOO_LONG.match(fault.message)) is not None:
        return ContextLengthExceeded(int(too_long[1]), int(too_long[2]))
    if 400 <= fault.code < 500:
        return BadRequest(fault.message)
    return EngineError(fault.message)


def first_line(error: Exception) -> str:
    """Return what the binding says is wrong with a request."""
    return (str(error).strip().splitlines() or ["the request was refused by llama.cpp"])[0]
