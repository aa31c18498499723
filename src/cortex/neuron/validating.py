"""Try one model as the daemon would run it: load it, ask it, leave it in mid-answer, ask it again, unload it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.neuron.app import Neuron
from cortex.neuron.config import Harness, NeuronConfig
from cortex.neuron.replica import Replica
from cortex.wire import json
from cortex.wire.collect import Collector
from cortex.wire.engine_api import Chunk, Finished, Kind
from cortex.wire.openai import read_request

QUESTION = "Name three colours of the sea."
TOKENS = 24


class Invalid(CortexError):
    """The model loads and answers, but not as it must."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was tried and held, how long it took, and what was seen."""

    name: str
    seconds: float
    seen: str


Tell = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    finished: Finished
    first_seconds: float


async def validate(spec: ModelSpec, config: NeuronConfig, tell: Tell) -> None:
    """Try *spec* on this machine and *tell* each step. Raises CortexError with what does not hold."""
    alone = msgspec.structs.replace(config, default_models=[], harnesses=[Harness(spec.engine_name)])
    neuron = Neuron(alone)
    began, failure = time.monotonic(), None
    async with neuron.lifespan(Starlette()):
        tell(Step("start", time.monotonic() - began, ", ".join(each.name for each in neuron.discovery.devices)))
        try:
            await _try(neuron, spec, tell)
        except CortexError as error:
            failure = error
    if failure is not None:
        raise failure


async def _try(neuron: Neuron, spec: ModelSpec, tell: Tell) -> None:
    began = time.monotonic()
    replica = await neuron.models.load(spec, spec.wanted_devices)
    tell(Step("load", time.monotonic() - began, _loaded(neuron, spec)))
    await (_try_text if _kind(replica) != "embedding" else _try_vectors)(replica, tell)
    began = time.monotonic()
    await neuron.models.unload(spec.id)
    tell(Step("unload", time.monotonic() - began, "its process is gone"))


def _loaded(neuron: Neuron, spec: ModelSpec) -> str:
    (told,) = (model for model in neuron.models.describe() if model.id == spec.id)
    memory = "" if told.memory_bytes is None else f", {told.memory_bytes >> 20} MiB"
    needed = sum(told.estimated_by_device.values()) >> 20
    return (
        f"{told.engine_version}; devices {told.devices}{memory} ({told.estimate_basis}: {needed} MiB), "
        f"{told.slots} slots of {told.context_tokens} tokens; {', '.join(told.capabilities)}"
    )


def _kind(replica: Replica) -> Kind:
    offered = replica.admit().info.capabilities
    kinds: tuple[tuple[str, Kind], ...] = (("chat", "chat"), ("completions", "completion"), ("embeddings", "embedding"))
    for capability, kind in kinds:
        if capability in offered:
            return kind
    raise Invalid(f"nothing is tried of what it offers: {', '.join(offered) or 'nothing'}")


async def _try_text(replica: Replica, tell: Tell) -> None:
    began = time.monotonic()
    first = await _ask(replica)
    usage, decode = first.finished.usage, first.finished.timings.decode_ms / 1000
    speed = f"{usage.completion_tokens / decode:.1f} tokens/s" if decode else "one token"
    seen = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens, first after {first.first_seconds:.2f} s, {speed}"
    tell(Step("ask", time.monotonic() - began, seen))
    if not first.text.strip():
        raise Invalid("the answer is empty")
    began = time.monotonic()
    await _leave(replica)
    tell(Step("leave", time.monotonic() - began, "an answer was left after its first token"))
    began = time.monotonic()
    second = await _ask(replica)
    if second.text != first.text:
        raise Invalid(f"the same question has two greedy answers: {first.text!r} and {second.text!r}")
    cached = second.finished.usage.cached_tokens
    tell(Step("ask again", time.monotonic() - began, f"the same answer, {cached} tokens of the prompt from the cache"))


async def _try_vectors(replica: Replica, tell: Tell) -> None:
    began = time.monotonic()
    body = json.encode({"model": replica.spec.id, "input": ["A ship at sea.", "A boat on the ocean."]})
    async with aclosing(replica.generate("embedding", read_request("embedding", body).body, 1)) as events:
        chunks = [json.decode_any(event.data) async for event in events if isinstance(event, Chunk)]
    vectors: list[list[float]] = [each["embedding"] for chunk in chunks for each in chunk["data"]]
    if len(vectors) != 2 or not all(math.isfinite(value) for vector in vectors for value in vector):
        raise Invalid("two inputs have no two finite vectors")
    tell(Step("embed", time.monotonic() - began, f"2 vectors of {len(vectors[0])} numbers"))


def _body(replica: Replica, tokens: int) -> tuple[Kind, bytes]:
    kind = _kind(replica)
    asked: dict[str, Any] = {"model": replica.spec.id, "max_tokens": tokens, "temperature": 0}
    asked |= {"messages": [{"role": "user", "content": QUESTION}]} if kind == "chat" else {"prompt": QUESTION}
    return kind, read_request(kind, json.encode(asked)).body


async def _ask(replica: Replica) -> _Said:
    kind, body = _body(replica, TOKENS)
    collector, began, first, finished = Collector(kind), time.monotonic(), 0.0, None
    async with aclosing(replica.generate(kind, body, 1)) as events:
        async for event in events:
            if isinstance(event, Chunk):
                first = first or time.monotonic() - began
                collector.add(event.data)
            elif isinstance(event, Finished):
                finished = event
    assert finished is not None, "a generation ends in Finished, or raises"
    choice = json.decode_any(collector.answer(finished.usage))["choices"][0]
    text = choice["text"] if kind == "completion" else _words(choice["message"])
    return _Said(text, finished, first)


def _words(message: dict[str, Any]) -> str:
    """Return what a message says, its reasoning too: a model may still reason when its tokens are used up."""
    return (message.get("reasoning_content") or "") + (message.get("content") or "")


async def _leave(replica: Replica) -> None:
    """Ask for a long answer, and leave at its first token."""
    kind, body = _body(replica, 10 * TOKENS)
    async with aclosing(replica.generate(kind, body, 1)) as events:
        async for event in events:
            if isinstance(event, Chunk):
                return
