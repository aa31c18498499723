"""Chats and completions of a model in vLLM: one request in, the events of every engine out."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.base import Event
from cortex.engines.call_or_answer import CallOrAnswer, call_or_answer, in_two_passes
from cortex.engines.transformers.prompts import Prompts, texts_of
from cortex.engines.vllm import request as asking
from cortex.engines.vllm.reading import EngineFault, Reading
from cortex.engines.vllm.serving import Run, Serving
from cortex.wire.engine_api import Chunk, Finished, Generate, Progress, Timings, Usage
from cortex.wire.json import decode_any, encode

TOOLS_HINT = "its tool calls are in no format that is known of its family: name one with options = { tool_parser = … }"


@dataclass(frozen=True, slots=True)
class Answering:
    """One model that writes. *harmony* is the format of gpt-oss, which vLLM renders without a template."""

    model: str
    serving: Serving
    prompts: Prompts
    context_tokens: int
    slots: int
    has_tools: bool
    harmony: bool

    async def answer(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol of engines."""
        fields = decode_any(request.body)
        if fields.get("n", 1) > self.slots:
            raise BadRequest(f"n: this replica has {self.slots} slots, one for each choice", param="n")
        if fields.get("tools") and fields.get("tool_choice") != "none" and not self.has_tools:
            raise BadRequest(f"tools: not offered by {self.model}: {TOOLS_HINT}", param="tools")
        either = call_or_answer(fields) if request.kind == "chat" else None
        run = partial(self._run, request, either=either)
        async with aclosing(in_two_passes(either, run) if either else run(fields)) as events:
            async for event in events:
                yield event

    async def _run(
        self, request: Generate, fields: dict[str, Any], either: CallOrAnswer | None
    ) -> AsyncGenerator[Event, None]:
        """Have vLLM compute *fields*, and tell what comes of it."""
        began, first = time.perf_counter(), None
        run_id = uuid.uuid4().hex
        asked = self._asked(request.kind, fields, run_id, shows_tools=either is not None)
        reading = Reading(self.model, _stops_of(fields))
        try:
            run, lines = await self._begin(request.kind, fields, asked)
            yield Progress(request.id, "prefill", 0, run.prompt_tokens)
            async with aclosing(lines):
                async for line in lines:
                    chunk = reading.feed(line)
                    if chunk is None:
                        continue
                    if first is None:
                        first = time.perf_counter()
                        yield Progress(request.id, "prefill", run.prompt_tokens, run.prompt_tokens, run.cached_tokens)
                    for told in either.translate(chunk) if either else [chunk]:
                        yield Chunk(request.id, encode(told))
        finally:
            with anyio.CancelScope(shield=True):
                await self.serving.watched.stop(run_id)
        yield _finished(request.id, run, reading, either, began, first)

    def _asked(self, kind: str, fields: dict[str, Any], run_id: str, *, shows_tools: bool) -> dict[str, Any]:
        if kind == "completion":
            return asking.completion(fields, self.model, run_id)
        variables = self.prompts.variables
        return asking.chat(fields, self.model, run_id, variables, harmony=self.harmony, shows_tools=shows_tools)

    async def _begin(
        self, kind: str, fields: dict[str, Any], asked: dict[str, Any]
    ) -> tuple[Run, AsyncGenerator[str, None]]:
        try:
            return await self.serving.begin(kind, asked, asking.limit_of(fields))
        except BadRequest as error:
            if "maximum context length" not in error.message:
                raise
            raise ContextLengthExceeded(await self._count(fields), self.context_tokens) from error

    async def _count(self, fields: dict[str, Any]) -> int:
        """Return the tokens of the longest prompt in *fields*; vLLM may have stopped counting."""
        if "messages" in fields:
            return len((await anyio.to_thread.run_sync(self.prompts.chat_tokens, fields))[0])
        return max(len(self.prompts.tokens(t) if isinstance(t, str) else t) for t in texts_of(fields["prompt"]))


def _finished(
    request_id: str, run: Run, reading: Reading, either: CallOrAnswer | None, began: float, first: float | None
) -> Finished:
    """Return the end of a request whose prefill *began*, and whose answer began *first*, by `time.perf_counter`."""
    if reading.completion_tokens is None or reading.finish_reason is None:
        raise EngineFault("vLLM ended the answer without a finish reason")
    end = time.perf_counter()
    first = end if first is None else first
    usage = Usage(run.prompt_tokens, reading.completion_tokens, run.cached_tokens)
    timings = Timings(
        prefill_ms=1000 * (first - began), decode_ms=1000 * (end - first), cached_tokens=run.cached_tokens
    )
    reason = either.finish_reason if either is not None and either.finish_reason else reading.finish_reason
    return Finished(request_id, reason, usage, timings)


def _stops_of(fields: dict[str, Any]) -> list[str]:
    stop = fields.get("stop") or []
    return [stop] if isinstance(stop, str) else stop
