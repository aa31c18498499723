"""An engine without a model: declared memory, load time and speed, and deterministic text.

For capacity planning, demonstrations of a fleet without GPUs, and tests of clients. It says that it is simulated
wherever it can. Every slot runs at the declared speed however many are busy: contention for a GPU is not simulated.

The text is a function of the prompt, the seed, the model and the choice's index. There is no distribution to shape, so
`temperature`, `top_p`, the penalties and their like are accepted and change nothing. Images count 256 tokens each. A
document's score is the share of the query's words that it has.
Control words in the last user message (or in a completion's prompt) let a client be tested:

    #echo TEXT     answers exactly TEXT, to the message's end
    #tokens N      answers with N tokens; 64 without it
    #think         reasons first, in `reasoning_content`, unless the request switches reasoning off
    #tool          calls the first tool (the named one if `tool_choice` names it) with arguments its schema accepts;
                   not again once the tool has answered; where a call is `required`, tools not yet called come first
    #tools N       calls N tools at once, each in its turn

Faults can be ordered by options of the model, see `engines.simulated_faults`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any, ClassVar

import msgspec

from cortex import __version__
from cortex.core.errors import BadRequest
from cortex.engines import simulated_text as texts
from cortex.engines.base import Event, LoadError, OnProgress, check_options
from cortex.engines.simulated_answer import (
    TEMPLATE_VARIABLES,
    Answer,
    answer_chat,
    answer_completion,
    answer_embedding,
    answer_rerank,
)
from cortex.engines.simulated_faults import NO_FAULT, Fault, read_fault
from cortex.wire import json
from cortex.wire.engine_api import (
    Chunk,
    EngineSpec,
    Estimate,
    Finished,
    Generate,
    Progress,
    ReplicaInfo,
    Timings,
    Tokenize,
    Usage,
)
from cortex.wire.openai import Message, Tool

CAPABILITIES = ("chat", "completions", "embeddings", "rerank", "tools", "vision")
DEFAULT_CONTEXT_TOKENS = 131_072
LOAD_STEP_SECONDS = 0.05
PREFILL_STEP_SECONDS = 0.05


class Options(msgspec.Struct, frozen=True):
    """What a simulated model declares of itself, and the fault that it is to have.

    `fault` happens in the stage `fault_at`, in `decode` after `fault_after_tokens`; in answers only to prompts that
    hold the text `fault_on`, if that is not empty. `crash_after_tokens` is short for an exit in decode; 0 is never.
    """

    memory_mb: int = 1024
    load_seconds: float = 0.5
    tokens_per_second: float = 100.0
    prefill_tokens_per_second: float = 10_000.0
    slots: int = 8
    fail_load: str = ""
    embedding_dimensions: int = 64
    crash_after_tokens: int = 0
    fault: str = ""
    fault_at: str = "decode"
    fault_after_tokens: int = 0
    fault_on: str = ""

    @property
    def ordered_fault(self) -> Fault:
        """The fault. Raises LoadError."""
        if self.crash_after_tokens and not self.fault:
            return Fault("exit", "decode", self.crash_after_tokens)
        return read_fault(self.fault, self.fault_at, self.fault_after_tokens, self.fault_on)


OPTIONS: dict[str, type | tuple[type, ...]] = {
    field.name: (int, float) if field.type is float else field.type for field in msgspec.structs.fields(Options)
}
_AT_LEAST_ZERO = ("memory_mb", "load_seconds", "crash_after_tokens", "fault_after_tokens")
_POSITIVE = ("tokens_per_second", "prefill_tokens_per_second", "slots", "embedding_dimensions")


class _TokenizeBody(msgspec.Struct):
    content: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


_tokenize = msgspec.json.Decoder(_TokenizeBody)


class Simulated:
    """One model that is not there."""

    name: ClassVar[str] = "simulated"

    def __init__(self) -> None:
        self.version = __version__
        self.device_kinds = ("simulated", "cpu", "cuda", "rocm")
        self._options = Options()
        self._fault = NO_FAULT
        self._spec: EngineSpec | None = None
        self._context = DEFAULT_CONTEXT_TOKENS

    def warm_up(self) -> None:
        """Nothing to do: everything is imported."""

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return the declared memory, shared equally by the devices."""
        share = -(-(read_options(spec).memory_mb << 20) // len(spec.devices))
        return Estimate({device.index: share for device in spec.devices})

    async def load(self, spec: EngineSpec, on_progress: OnProgress) -> ReplicaInfo:
        """Take the declared time, then be ready or fail as declared."""
        options = read_options(spec)
        fault = options.ordered_fault
        if not spec.vocabulary_only:
            await fault.strike("load")
        await _pass_time(0.0 if spec.vocabulary_only else options.load_seconds, on_progress)
        if options.fail_load:
            raise LoadError(options.fail_load)
        self._options, self._spec, self._fault = options, spec, fault
        self._context = spec.context or DEFAULT_CONTEXT_TOKENS
        return ReplicaInfo(
            engine=self.name,
            engine_version=self.version,
            context_tokens=self._context,
            slots=options.slots,
            capabilities=() if spec.vocabulary_only else CAPABILITIES,
            simulated=True,
            memory_bytes=options.memory_mb << 20,
            notes=("simulated: no model is behind this",),
            template_variables=TEMPLATE_VARIABLES,
        )

    async def generate(self, request: Generate) -> AsyncGenerator[Event, None]:
        """Run one request at the declared speed; it can be closed or cancelled between any two tokens."""
        answer, clock = self._answer(request), asyncio.get_running_loop().time
        fault = self._fault if self._fault.concerns(request.body) else NO_FAULT
        began = clock()
        for done in self._prefill(answer.prompt_tokens):
            await _until(began + done / self._options.prefill_tokens_per_second)
            yield Progress(request.id, "prefill", done, answer.prompt_tokens)
            await fault.strike("prefill")
        prefilled = clock()
        for data in answer.opening:
            yield Chunk(request.id, data)
        for at, chunks in enumerate(answer.steps):
            await _until(prefilled + (at + 1) / self._options.tokens_per_second)
            await fault.strike("decode", at)
            for data in chunks:
                yield Chunk(request.id, data)
        usage = Usage(answer.prompt_tokens, answer.completion_tokens)
        timings = Timings(prefill_ms=1000 * (prefilled - began), decode_ms=1000 * (clock() - prefilled))
        yield Finished(request.id, answer.finish_reason, usage, timings)

    async def tokenize(self, request: Tokenize) -> bytes:
        """Return the ids of the tokens that a prompt would count as; an image's are all 0."""
        body = json.decode(request.body, _tokenize)
        if body.messages is not None:
            text, images = texts.render(body.messages, body.tools or ()), texts.image_count(body.messages)
        elif body.content is not None:
            text, images = body.content, 0
        else:
            raise BadRequest("content: expected a string, or messages", param="content")
        ids = [texts.token_id(token) for token in texts.tokens_of(text)] + [0] * (images * texts.IMAGE_TOKENS)
        return json.encode({"tokens": ids, "count": len(ids)})

    async def close(self) -> None:
        """Nothing is held."""

    def _answer(self, request: Generate) -> Answer:
        assert self._spec is not None, "not loaded"
        if request.choices > self._options.slots:
            raise BadRequest(f"n: this replica has {self._options.slots} slots, one for each choice", param="n")
        if request.kind == "chat":
            return answer_chat(request.body, self._spec, self._context, int(time.time()))
        if request.kind == "completion":
            return answer_completion(request.body, self._spec, self._context, int(time.time()))
        if request.kind == "rerank":
            return answer_rerank(request.body, self._context)
        return answer_embedding(request.body, self._spec, self._context, self._options.embedding_dimensions)

    def _prefill(self, total: int) -> Iterator[int]:
        """Yield how many of *total* prompt tokens are done at each step, 0 first and *total* last."""
        step = max(1, int(self._options.prefill_tokens_per_second * PREFILL_STEP_SECONDS))
        yield from range(0, total, step)
        yield total


def read_options(spec: EngineSpec) -> Options:
    """Return the options of *spec*. Raises LoadError naming the one that is wrong."""
    check_options(spec, OPTIONS)
    given: dict[str, Any] = spec.options
    for name in _AT_LEAST_ZERO:
        if not 0 <= given.get(name, 0) < math.inf:
            raise LoadError(f"options.{name} = {given[name]}: expected 0 or more")
    for name in _POSITIVE:
        if not 0 < given.get(name, 1) < math.inf:
            raise LoadError(f"options.{name} = {given[name]}: expected more than 0")
    return Options(**given)


async def _pass_time(seconds: float, on_progress: OnProgress) -> None:
    """Let *seconds* pass, and say in percent how many have."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while (passed := clock() - began) < seconds:
        on_progress("load", int(100 * passed / seconds), 100)
        await asyncio.sleep(min(LOAD_STEP_SECONDS, seconds - passed))
    on_progress("load", 100, 100)


async def _until(deadline: float) -> None:
    """Sleep to *deadline*; one that has passed still lets others run."""
    await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
