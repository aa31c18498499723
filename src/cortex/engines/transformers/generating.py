"""Serve text from a model that is loaded: requests become sequences of the runner, what it tells becomes chunks."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import Any

import anyio

from cortex.core.errors import BadRequest
from cortex.engines.base import Event
from cortex.engines.call_or_answer import CallOrAnswer, call_or_answer, in_two_passes
from cortex.engines.transformers.answer import Answer
from cortex.engines.transformers.batch import Prefill
from cortex.engines.transformers.chunks import Chunks
from cortex.engines.transformers.detokenizer import Detokenizer
from cortex.engines.transformers.folder import Folder
from cortex.engines.transformers.grammar import Grammars
from cortex.engines.transformers.group import Group
from cortex.engines.transformers.markup import Marks
from cortex.engines.transformers.member import Member
from cortex.engines.transformers.messages import Admit
from cortex.engines.transformers.prompts import Prompts
from cortex.engines.transformers.request import Asked, Translator, read
from cortex.engines.transformers.runner import Clock, Ended, Heard, Runner, Running, Spoilt
from cortex.engines.transformers.sampling import Chosen, Sampler
from cortex.engines.transformers.stops import StopStrings
from cortex.wire.engine_api import Chunk, Finished, Generate, Progress, Timings, Usage
from cortex.wire.json import decode_any, encode

RUNNER_BROKE_STATUS = 72
# Requests have ids of their own; sequences get theirs here, so that no two are ever taken for one.
_numbers = count(1)


class EngineError(Exception):
    """The engine failed in a way that is not the request's fault."""


class Generating:
    """Owns the runner of one model."""

    def __init__(self, model: str, version: str, folder: Folder, prompts: Prompts, context: int, slots: int) -> None:
        self._model, self._version, self._folder, self._prompts = model, version, folder, prompts
        self._context, self._slots = context, slots
        self._stop_ids = list(dict.fromkeys(folder.stop_ids + prompts.stop_ids))
        self._grammars = Grammars(prompts.backend, folder.vocabulary_size, self._stop_ids)
        self._loop = asyncio.get_running_loop()
        self.runner: Runner

    def start(self, runner: Runner, member: Member, group: Group | None, thread: Executor) -> None:
        """Let *runner* compute on *thread* from now on."""
        self.runner = runner
        self._running = self._loop.run_in_executor(thread, runner.run, member, group)
        self._running.add_done_callback(_end_if_it_broke)

    def tell(self, news: Sequence[tuple[Running, Heard]]) -> None:
        """Bring *news* of a step to those that wait; called from the thread that computes."""

        def deliver() -> None:
            for sequence, heard in news:
                sequence.hear(heard)

        self._loop.call_soon_threadsafe(deliver)

    async def close(self) -> None:
        """End the runner's thread after the step under way."""
        closed = asyncio.Event()
        self.runner.close(lambda: self._loop.call_soon_threadsafe(closed.set))
        await closed.wait()

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request; see the protocol of engines."""
        fields = decode_any(request.body)
        either = call_or_answer(fields) if request.kind == "chat" else None
        if either is None:
            events = self._run(request.id, await self._read(request.kind, fields))
        else:
            events = self._either(request.id, either)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _read(self, kind: str, fields: dict[str, Any], translator: Translator | None = None) -> Asked:
        """Return what *fields* ask. Raises BadRequest, ContextLengthExceeded."""
        return await anyio.to_thread.run_sync(
            read, kind, fields, self._prompts, self._folder.generation, self._context, translator
        )

    def _either(self, request_id: str, either: CallOrAnswer) -> AsyncGenerator[Event, None]:
        async def run(fields: dict[str, Any]) -> AsyncGenerator[Event, None]:
            async with aclosing(self._run(request_id, await self._read("chat", fields, either))) as events:
                async for event in events:
                    yield event

        return in_two_passes(either, run)

    async def _run(self, request_id: str, asked: Asked) -> AsyncGenerator[Event, None]:
        """Let the runner compute what is *asked*, and tell what comes of it. Leaving this frees its slots."""
        if asked.choices > self._slots:
            raise BadRequest(f"n: this replica has {self._slots} slots, one for each choice", param="n")
        answers = self._answers(asked)
        samplers = await anyio.to_thread.run_sync(self._samplers, asked)
        course = Course(request_id, asked, samplers, self._stop_ids, self.runner, min(self._slots, len(answers)))
        translate = asked.translator.translate if asked.translator else lambda chunk: [chunk]
        try:
            async for index, heard in course:
                if isinstance(heard, Progress):
                    yield heard
                    continue
                for chunk in self._chunks(answers[index], heard):
                    for each in translate(chunk):
                        yield Chunk(request_id, encode(each))
                if answers[index].finish_reason is not None:
                    await course.leave(index)
        finally:
            with anyio.CancelScope(shield=True):
                await course.leave_all()
        yield course.finished(answers)

    def _answers(self, asked: Asked) -> list[Answer]:
        chunks = Chunks(asked.shape, self._model, int(time.time()), self._version)
        special, shown = self._prompts.special_ids, self._prompts.mark_ids if asked.shape == "chat" else ()
        return [
            Answer(
                index=index,
                chunks=chunks,
                prompts=self._prompts,
                text=Detokenizer(self._prompts.backend, special, shown),
                stops=StopStrings(asked.stops),
                marks=self._marks(asked) if asked.shape == "chat" else None,
            )
            for index in range(len(asked.prompts) * asked.choices)
        ]

    def _marks(self, asked: Asked) -> Marks:
        return Marks(
            dict(asked.tools or {}), reasons=self._prompts.reasons and not asked.schema, thinking=asked.thinking
        )

    def _samplers(self, asked: Asked) -> list[Sampler]:
        """Return one sampler a sequence. Raises BadRequest for a schema that cannot be enforced."""
        return [
            Sampler(asked.sampling, prompt, choice, self._grammars.matcher(*asked.schema) if asked.schema else None)
            for prompt in asked.prompts
            for choice in range(asked.choices)
        ]

    def _chunks(self, answer: Answer, heard: Heard) -> Iterator[dict[str, Any]]:
        match heard:
            case Chosen():
                yield from answer.take(heard, is_stop=heard.token in self._stop_ids)
            case Ended():
                if answer.finish_reason is None:
                    yield from answer.end(heard.reason)
            case Spoilt():
                raise EngineError(heard.message)


def _end_if_it_broke(running: asyncio.Future[None]) -> None:
    """End this process when its thread that computes is gone: nothing would ever be answered again."""
    if not running.cancelled() and (error := running.exception()) is not None:
        traceback.print_exception(error)
        os._exit(RUNNER_BROKE_STATUS)


class Course:
    """One request under way: which of its sequences run, and what was heard of them. At most *width* run at once."""

    def __init__(
        self, id_: str, asked: Asked, samplers: Sequence[Sampler], stop_ids: list[int], runner: Runner, width: int
    ) -> None:
        self._id, self._asked, self._runner, self._width = id_, asked, runner, width
        self._clock = Clock()
        self._inbox: asyncio.Queue[tuple[int, Heard]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._waiting = deque(self._sequences(samplers, stop_ids))
        self._running: dict[int, Running] = {}
        self._prefilled: dict[int, Prefill] = {}

    def _sequences(self, samplers: Sequence[Sampler], stop_ids: list[int]) -> list[tuple[int, Running]]:
        sequences = []
        for index, sampler in enumerate(samplers):
            at = index // self._asked.choices
            admit = Admit(
                f"{next(_numbers)}/{self._id}/{index}", self._asked.prompts[at], self._asked.limits[at], stop_ids
            )
            sequences.append((index, Running(admit, sampler, partial(self._hear, index))))
        return sequences

    def _hear(self, index: int, heard: Heard) -> None:
        self._inbox.put_nowait((index, heard))

    async def __aiter__(self) -> AsyncGenerator[tuple[int, Chosen | Ended | Spoilt | Progress], None]:
        """Yield the index of a choice and what was heard of it, until all have ended."""
        self._start()
        while self._running:
            index, heard = await self._inbox.get()
            if index not in self._running:
                continue  # it has left: what a step under way still brought is nobody's
            if isinstance(heard, Prefill):
                if index % self._asked.choices == 0:
                    yield index, self._progress(index, heard)
                continue
            if isinstance(heard, Chosen):
                self._clock.token()
            else:
                del self._running[index]
                self._start()
            yield index, heard

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._width:
            index, sequence = self._waiting.popleft()
            self._running[index] = sequence
            self._runner.submit(sequence)

    def _progress(self, index: int, heard: Prefill) -> Progress:
        """Return how far the prompts are together, those of the same text counted once."""
        self._prefilled[index] = heard
        done = sum(each.done for each in self._prefilled.values())
        return Progress(self._id, "prefill", done, self._asked.prompt_tokens, self._cached)

    @property
    def _cached(self) -> int:
        return sum(each.cached for each in self._prefilled.values())

    async def leave(self, index: int) -> None:
        """Take choice *index* out of the batch, if it is there, and return when its slot is free."""
        sequence = self._running.pop(index, None)
        if sequence is not None:
            dropped = asyncio.Event()
            self._runner.drop(sequence.admit.id, lambda: self._loop.call_soon_threadsafe(dropped.set))
            await dropped.wait()
            self._start()

    async def leave_all(self) -> None:
        """Take whatever still runs out of the batch."""
        self._waiting.clear()
        for index in list(self._running):
            await self.leave(index)

    def finished(self, answers: Sequence[Answer]) -> Finished:
        """Return the end of the request."""
        usage = Usage(self._asked.prompt_tokens, sum(each.tokens for each in answers), self._cached)
        prefill_ms, decode_ms = self._clock.spans()
        translated = self._asked.translator.finish_reason if self._asked.translator else None
        reason = translated or answers[0].finish_reason or "stop"
        timings = Timings(prefill_ms=prefill_ms, decode_ms=decode_ms, cached_tokens=usage.cached_tokens)
        return Finished(self._id, reason, usage, timings)
