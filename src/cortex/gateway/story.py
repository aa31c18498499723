"""What happens to one request, from its arrival to its last line in the log."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from cortex.core.errors import CortexError, ServiceError
from cortex.core.logging import LEVELS, get_logger, stamp
from cortex.fleet.route import Choice
from cortex.gateway.continuing import Continuing
from cortex.gateway.dialects import Asked
from cortex.gateway.keys.caller import Caller
from cortex.gateway.relay import Outcome
from cortex.gateway.trace.record import Attempt, Record
from cortex.serving.exchange import Exchange
from cortex.wire.engine_api import Usage
from cortex.wire.errors import RemoteError

log = get_logger(__name__)


def paid_usage(outcome: Outcome | None, prompt_tokens: int) -> Usage | None:
    """Return what a request is paid for with; None if no replica began to serve it.

    That is the replica's own count. Without one, as when the client hung up, it is the estimate of *prompt_tokens* and
    the events that came, of which each brings about a token: nobody saves by leaving early.
    """
    if outcome is None:
        return None
    if outcome.trailer is None:
        return Usage(prompt_tokens, outcome.events)
    if outcome.trailer.finish_reason != "error":
        return outcome.trailer.usage
    came = outcome.events - 1  # the last one is the error
    return Usage(prompt_tokens, came) if came > 0 else None


class Story(msgspec.Struct, eq=False):
    """What happened to one request, for its last log line and the books."""

    exchange: Exchange
    model: str = "?"
    known: bool = False
    node: str = "-"
    asked: Asked | None = None
    caller: Caller | None = None
    arrived: float = msgspec.field(default_factory=time.perf_counter)
    wait_seconds: float = 0.0
    waits: bool = False
    attempts: int = 0
    failures: list[Attempt] | None = None
    outcome: Outcome | None = None
    place: int = 0
    asked_at: float = 0.0
    chosen_at: float = 0.0
    choice: Choice | None = None
    let_in: bool | None = None
    traceparent: str | None = None
    paid: Usage | None = None
    continuing: Continuing | None = None

    @property
    def continued(self) -> bool:
        """Whether another replica goes on, or went on, with what one had begun."""
        return self.continuing is not None and self.continuing.count > 0

    @property
    def said(self) -> int:
        """How many pieces of the answer have come from replicas that broke off."""
        return self.continuing.pieces if self.continuing is not None and self.continued else 0

    @property
    def stream(self) -> bool:
        """Whether the client wants a stream."""
        return self.asked is not None and self.asked.stream

    @property
    def answered(self) -> bool:
        """Whether the node has said all that it has to say."""
        return self.outcome is not None and self.outcome.trailer is not None

    @property
    def failed(self) -> bool:
        """Whether the node ended the answer with an error."""
        trailer = self.outcome.trailer if self.outcome else None
        return trailer is not None and trailer.finish_reason == "error"

    @property
    def error_code(self) -> str | None:
        """The code of the error that the node ended a stream with."""
        trailer = self.outcome.trailer if self.outcome else None
        return trailer.error_code if trailer is not None else None

    def elapsed(self) -> float:
        """Return the seconds since the request arrived."""
        return time.perf_counter() - self.arrived

    def failed_on(self, node: str) -> int:
        """Return how often *node* failed it."""
        return sum(attempt.node == node for attempt in self.failures or ())

    @property
    def label(self) -> str:
        """The model as the books have it: what clients make up must not become a series each."""
        return self.model if self.known else "unknown"

    def record(self, status: int, code: str | None, reason: str) -> Record:
        """Return what happened, now that it is over: nothing of what was said is in it."""
        exchange, asked, outcome = self.exchange, self.asked, self.outcome
        return Record(
            exchange.request_id,
            exchange.path,
            self.caller.name if self.caller is not None else None,
            asked.model if asked is not None else "",
            self.model,
            self.label,
            self.node,
            self.stream,
            self.arrived,
            time.perf_counter(),
            self.asked_at,
            self.chosen_at,
            self.wait_seconds,
            self.place,
            self.attempts,
            self.failures,
            self.choice,
            outcome.sent_at if outcome is not None else 0.0,
            outcome.events if outcome is not None else 0,
            outcome.trailer if outcome is not None else None,
            status,
            code,
            reason,
            asked.max_tokens if asked is not None else None,
            self.paid,
            self.let_in,
            len(exchange.body),
            outcome.bytes if outcome is not None else 0,
            self.traceparent,
        )


def words_of(error: BaseException | None) -> str:
    """Return what *error* says, unless it might be the client's own words, or an engine's."""
    return str(error) if isinstance(error, ServiceError) and not isinstance(error, RemoteError) else ""


class Line(msgspec.Struct):
    """The one line that a request leaves in the log."""

    timestamp: str
    level: str
    event: str
    logger: str
    request: str
    path: str
    key: str | None
    model: str
    node: str
    stream: bool
    attempts: int
    wait_seconds: float
    ttft_seconds: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    events: int
    reason: str | None
    total_seconds: float
    status: int
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    continued: int | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    code: str | msgspec.UnsetType = msgspec.UNSET


def line_of(record: Record, epoch: float) -> Line:
    """Return the line of *record*; *epoch* is when `time.perf_counter` was 0, in seconds since 1970."""
    trailer = record.trailer
    usage = trailer.usage if trailer is not None else None
    return Line(
        stamp(epoch + record.ended),
        "info",
        "request_finished",
        __name__,
        record.id,
        record.path,
        record.key,
        record.model,
        record.node,
        record.stream,
        record.attempts,
        record.wait_seconds,
        record.first_token_seconds,
        usage.prompt_tokens if usage is not None else None,
        usage.completion_tokens if usage is not None else None,
        record.events,
        trailer.finish_reason if trailer is not None else None,
        record.ended - record.arrived,
        record.status,
        record.traceparent or msgspec.UNSET,
        record.continued or msgspec.UNSET if record.failures else msgspec.UNSET,
    )


def log_answered(records: Sequence[Record]) -> None:
    """Write the lines of those of *records* that went well; `log_trouble` has written the others'."""
    if log.enabled(LEVELS["info"]):
        epoch = time.time() - time.perf_counter()
        log.tell_past([line_of(record, epoch) for record in records if record.went_well])


def log_trouble(record: Record, error: BaseException | None) -> None:
    """Write the line of a request that did not go well, at once: it failed of *error*, or its client left."""
    line = line_of(record, time.time() - time.perf_counter())
    if record.left:
        line.error = "the client went away, or the gateway is stopping"
    elif error is not None:
        line.error = str(error) if isinstance(error, CortexError) else repr(error)
        line.code = record.code if record.code is not None else msgspec.UNSET
    log.tell_past([line])
