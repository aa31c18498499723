"""Tools together with a format of the answer: whether a request is a call or an answer is the model's own choice.

A grammar over both would make that choice for it: a model that means to answer in prose may be left with the first
token of a call as the likeliest, and then calls for ever. So it writes unbound first, in the tool format of its own
template. A call, and reasoning, goes out as it comes. Words are kept back: once they are there without a call, the
answer is written again from the same prompt, which is cached, and bound to its format.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.base import Event
from cortex.engines.one_call import OneCall
from cortex.wire.engine_api import Finished, Progress, Timings, Usage

PREFACE_CHARACTERS = 600
"""Before a call, models say what they are about to do, and no more than this."""


class CallOrAnswer:
    """Reads the unbound draft of a request of *fields*, then makes one stream of it and of the bound answer."""

    def __init__(self, fields: dict[str, Any]) -> None:
        if fields.get("n", 1) > 1:
            raise BadRequest("n: only 1 together with tools and a response_format", param="n")
        self.draft = {name: value for name, value in fields.items() if name != "response_format"}
        self.bound = {**fields, "tool_choice": "none"}
        self.finish_reason: str | None = None
        self.called = False
        self._one_call = OneCall() if fields.get("parallel_tool_calls") is False else None
        self._bound_began: float | None = None
        self._began = self._heard = time.perf_counter()
        self._head: dict[str, Any] | None = None
        self._reasoned = 0
        self._kept_back = 0

    @property
    def is_answer(self) -> bool:
        """Whether the draft is known to be words alone."""
        if self.called:
            return False
        return self._kept_back > (0 if self.finish_reason else PREFACE_CHARACTERS) or self.finish_reason == "stop"

    def begin_answer(self) -> None:
        """Take what comes from now on for the bound answer."""
        self.finish_reason, self._bound_began = None, time.perf_counter()

    def translate(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what of *chunk* is the client's, as part of one stream."""
        if self._head is None:
            self._head = {name: chunk[name] for name in ("id", "created") if name in chunk}
            self._heard = time.perf_counter()
        told = [self._told(choice) for choice in chunk.get("choices", ())]
        chunks = [{**chunk, **self._head, "choices": [choice]} for choice in told if choice is not None]
        return [each for one in chunks for each in self._one_call.translate(one)] if self._one_call else chunks

    def finished(self, last: Finished, cached_tokens: int) -> Finished:
        """Return the end of the request, whose *last* part is over; words that nobody was told of do not count.

        *cached_tokens* of the prompt were cached when the draft began.
        """
        if self._bound_began is None:
            return last
        completion_tokens = last.usage.completion_tokens + self._reasoned
        timings = Timings(
            prefill_ms=1000 * (self._heard - self._began),
            decode_ms=1000 * (self._bound_began - self._heard) + last.timings.prefill_ms + last.timings.decode_ms,
            cached_tokens=cached_tokens,
        )
        usage = Usage(last.usage.prompt_tokens, completion_tokens, cached_tokens)
        return Finished(last.id, last.reason, usage, timings)

    def _told(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        delta, reason = choice.get("delta") or {}, choice.get("finish_reason")
        if self._bound_began is not None:
            self.finish_reason = reason or self.finish_reason
            kept = {name: value for name, value in delta.items() if name != "role"}
            return {**choice, "delta": kept} if kept or reason else None
        self.called = self.called or bool(delta.get("tool_calls"))
        self._reasoned += bool(delta.get("reasoning_content"))
        self._kept_back += len(delta.get("content") or "")
        self.finish_reason = reason or self.finish_reason
        kept = {name: value for name, value in delta.items() if name != "content" or not value}
        if reason is not None and self.is_answer:
            return None
        return {**choice, "delta": kept, "logprobs": None} if kept or reason else None


def call_or_answer(fields: dict[str, Any]) -> CallOrAnswer | None:
    """Return the reader of a chat of *fields* that may end either way, None if it is clear. Raises BadRequest."""
    wanted = (fields.get("response_format") or {}).get("type", "text")
    may_call = bool(fields.get("tools")) and fields.get("tool_choice") in (None, "auto")
    return CallOrAnswer(fields) if may_call and wanted != "text" else None


async def in_two_passes(
    either: CallOrAnswer, run: Callable[[dict[str, Any]], AsyncGenerator[Event, None]]
) -> AsyncGenerator[Event, None]:
    """Yield what *run* writes as a draft and, where that is no call, as the answer that is bound to a format."""
    cached = 0
    async with aclosing(run(either.draft)) as events:
        async for event in events:
            if either.is_answer:
                break
            cached = max(cached, event.cached) if isinstance(event, Progress) else cached
            yield event
    if not either.is_answer:
        return
    either.begin_answer()
    async with aclosing(run(either.bound)) as events:
        async for event in events:
            yield either.finished(event, cached) if isinstance(event, Finished) else event
