"""One request as it is kept: plain values, nothing of what was said, times in seconds since it came."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cortex.fleet.route import passed_over
from cortex.gateway.trace.loads import Decided, Load, loads_for
from cortex.gateway.trace.record import Record
from cortex.wire.envelopes import dialect_of

LONGEST_NAME = 200


class Failure(msgspec.Struct, omit_defaults=True):
    """An attempt that failed: where, when a replica was wished for and had, how long the node had it, what of.

    *said* pieces of the answer had come by then; another replica went on from there.
    """

    node: str
    asked_at: float
    chosen_at: float
    seconds: float
    code: str
    reason: str = ""
    said: int = 0


class Decision(msgspec.Struct, omit_defaults=True):
    """Why the replica that served was chosen, and why not each other one."""

    node: str
    reason: str
    expected_seconds: float
    rejected: dict[str, str] = {}


class Trace(msgspec.Struct, omit_defaults=True):
    """The story of one request.

    `received` is in seconds since 1970; all other times are in seconds since then, or how long something took.
    `outcome` is `answered`, `failed` or `left`; `status` is what the client was told, and `code` what it ended in.
    `first_token_at` and `decoded_at` are None where the node did not say.
    """

    id: str
    received: float
    seconds: float
    outcome: str
    status: int
    dialect: str
    path: str
    model: str
    asked: str
    node: str
    stream: bool
    key: str | None = None
    code: str | None = None
    reason: str = ""
    finish_reason: str | None = None
    asked_at: float | None = None
    chosen_at: float | None = None
    wait_seconds: float = 0.0
    place: int = 0
    attempts: int = 0
    failures: list[Failure] = []
    decision: Decision | None = None
    loads: list[Load] = []
    sent_at: float | None = None
    node_queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    first_token_at: float | None = None
    decoded_at: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    events: int = 0
    limit_tokens: int | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    traceparent: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """How fast it was decoded."""
        if not self.completion_tokens or self.decode_seconds <= 0:
            return None
        return self.completion_tokens / self.decode_seconds


def kept(record: Record, epoch: float, decided: Iterable[Decided]) -> Trace:
    """Return *record* as it is kept; *decided* is what was of its model.

    *epoch* is when `time.perf_counter` was 0, in seconds since 1970.
    """
    came = record.arrived
    trace = Trace(
        id=record.id,
        received=epoch + came,
        seconds=record.seconds,
        outcome="failed" if record.code is not None else "left" if record.left else "answered",
        status=record.status,
        dialect=dialect_of(record.path),
        path=record.path,
        model=record.model,
        asked=record.asked[:LONGEST_NAME],
        node=record.node,
        stream=record.stream,
        key=record.key,
        code=record.code,
        reason=record.reason,
        attempts=record.attempts,
        events=record.events,
        limit_tokens=record.limit,
        received_bytes=record.received_bytes,
        sent_bytes=record.sent_bytes,
        traceparent=record.traceparent,
    )
    _add_waiting(trace, record, decided)
    _add_serving(trace, record)
    return trace


def _add_waiting(trace: Trace, record: Record, decided: Iterable[Decided]) -> None:
    came = record.arrived
    if record.asked_at:
        trace.asked_at, trace.chosen_at = record.asked_at - came, record.chosen_at - came
        trace.wait_seconds, trace.place = record.wait_seconds, record.place
    if record.choice is not None:
        choice = record.choice
        node, expected = choice.replica.node, choice.expected_seconds
        trace.decision = Decision(node, choice.reason, expected, passed_over(choice))
    if record.failures:
        trace.failures = [
            Failure(f.node, f.asked_at - came, f.chosen_at - came, f.failed_at - f.chosen_at, f.code, f.reason, f.said)
            for f in record.failures
        ]
    if record.place:
        trace.loads = loads_for(record.model, came, record.chosen_at or record.ended, decided)


def _add_serving(trace: Trace, record: Record) -> None:
    if record.sent_at:
        trace.sent_at = record.sent_at - record.arrived
    trailer = record.trailer
    if trailer is None:
        return
    usage, timings = trailer.usage, trailer.timings
    trace.finish_reason = trailer.finish_reason
    trace.prompt_tokens, trace.cached_tokens = usage.prompt_tokens, usage.cached_tokens
    trace.completion_tokens = usage.completion_tokens
    trace.node_queue_seconds, trace.prefill_seconds = timings.queue_ms / 1000, timings.prefill_ms / 1000
    trace.decode_seconds, trace.first_token_at = timings.decode_ms / 1000, record.first_token_seconds
    if trace.first_token_at is not None:
        trace.decoded_at = trace.first_token_at + trace.decode_seconds
