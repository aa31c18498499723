"""Tell a kept request as spans, one after the other and within one another: where its time went. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cortex.gateway.trace.kept import Failure, Trace
from cortex.gateway.trace.loads import Load


class Span(msgspec.Struct):
    """A stretch of time: when it began, in seconds since the request came, and how long it took.

    `depth` is how many spans it is part of.
    """

    name: str
    at: float
    seconds: float
    depth: int = 0
    note: str = ""


def spans(trace: Trace) -> list[Span]:
    """Return the spans of *trace*, in order of when they began; those that are part of one come right after it."""
    return [*_failures(trace), *_waiting(trace), *_serving(trace)]


def _failures(trace: Trace) -> Iterator[Span]:
    began = 0.0
    for failure in trace.failures:
        yield Span("waiting", failure.asked_at, failure.chosen_at - failure.asked_at, note="for a replica")
        name = "broken off" if failure.said else "failed attempt"
        yield Span(name, failure.chosen_at, failure.seconds, note=_failure(failure))
        began = failure.chosen_at + failure.seconds
    asked = trace.asked_at if trace.asked_at is not None else trace.seconds
    name = "looking again" if trace.failures else "accepted"
    if asked > began:
        yield Span(name, began, asked - began, note=_key(trace))


def _waiting(trace: Trace) -> Iterator[Span]:
    if trace.asked_at is None or trace.chosen_at is None:
        return
    yield Span("waiting", trace.asked_at, trace.chosen_at - trace.asked_at, note=_wait(trace))
    for load in trace.loads:
        yield from _load(load)


def _load(load: Load) -> Iterator[Span]:
    note = f"on {load.node}: {load.why}" if load.why else f"on {load.node}"
    yield Span("cold start", load.at, load.seconds, 1, "; ".join(filter(None, (note, load.failed, load.unfinished))))
    for step in load.steps:
        stage = step.name.removeprefix("load: ")
        yield Span(stage, step.at, step.seconds, 2 if stage == step.name else 3, step.note)


def _serving(trace: Trace) -> Iterator[Span]:
    if trace.sent_at is None:
        return
    end = trace.seconds
    if trace.first_token_at is None or trace.decoded_at is None:
        how = trace.code or ("the client left" if trace.outcome == "left" else "")
        yield Span("on the node", trace.sent_at, end - trace.sent_at, note=f"{trace.node}: {trace.events} events {how}")
        return
    if trace.node_queue_seconds > 0:
        yield Span("node's queue", trace.sent_at, trace.node_queue_seconds, note=trace.node)
    prefill = trace.first_token_at - trace.prefill_seconds
    yield Span("prefill", prefill, trace.prefill_seconds, note=_prompt(trace))
    yield Span("decode", trace.first_token_at, trace.decode_seconds, note=_answer(trace))
    if end > trace.decoded_at:
        yield Span("last byte", trace.decoded_at, end - trace.decoded_at, note=f"{trace.sent_bytes} bytes sent")


def _wait(trace: Trace) -> str:
    place = f"place {trace.place} in the queue" if trace.place else "a slot was free"
    if trace.decision is not None:
        return f"{place}; {trace.decision.node}: {trace.decision.reason}"
    return f"{place}; {trace.code or 'the client left'}"


def _failure(failure: Failure) -> str:
    said = f" after {failure.said} tokens" if failure.said else ""
    return f"{failure.node}: {failure.code}{said}" + (f": {failure.reason}" if failure.reason else "")


def _key(trace: Trace) -> str:
    return f"{trace.dialect}, {trace.received_bytes} bytes" + (f", key {trace.key}" if trace.key else "")


def _prompt(trace: Trace) -> str:
    cached = f", {trace.cached_tokens} of them cached" if trace.cached_tokens else ""
    return f"{trace.prompt_tokens} tokens{cached}"


def _answer(trace: Trace) -> str:
    speed = f", {trace.tokens_per_second:.1f} tok/s" if trace.tokens_per_second else ""
    return f"{trace.completion_tokens} tokens{speed}"
