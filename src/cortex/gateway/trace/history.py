"""The figures of each minute: what a dashboard draws, and what was asked of the fleet while nobody looked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cortex.fleet.work import Event
from cortex.gateway.trace.record import Record

MINUTE_SECONDS = 60
# Times are kept in steps of 5%: a quantile is as exact as that, and of any number of minutes together.
_STEPS = 1 / math.log(1.05)
_LEAST_SECONDS = 0.001


class Minute(msgspec.Struct, omit_defaults=True):
    """What happened from *minute* on, in seconds since 1970, for 60 s.

    `waiting` and `in_flight` are the most at any look. `ttft` counts times to the first token by steps of 5%.
    """

    minute: int
    requests: int = 0
    errors: int = 0
    left: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    waiting: int = 0
    in_flight: int = 0
    loads: int = 0
    load_failures: int = 0
    evictions: int = 0
    ttft: dict[int, int] = {}


class History:
    """Owns the minutes that are not over, or not written yet."""

    def __init__(self) -> None:
        self._minutes: dict[int, Minute] = {}

    def begin_with(self, minutes: Sequence[Minute]) -> None:
        """Go on counting in *minutes*, which were written before."""
        self._minutes.update({minute.minute: minute for minute in minutes})

    def count(self, records: Sequence[Record], epoch: float) -> None:
        """Count *records*; *epoch* is when `time.perf_counter` was 0, in seconds since 1970."""
        for record in records:
            _count(self._at(epoch + record.ended), record)

    def decided(self, event: Event, now: float) -> None:
        """Count a decision, at *now* in seconds since 1970."""
        minute = self._at(now)
        minute.loads += event.kind == "load_started"
        minute.load_failures += event.kind == "load_failed"
        minute.evictions += event.kind == "evicted"

    def look(self, waiting: int, in_flight: int, now: float) -> None:
        """Take note of how many wait, and are under way."""
        minute = self._at(now)
        minute.waiting, minute.in_flight = max(minute.waiting, waiting), max(minute.in_flight, in_flight)

    def unwritten(self, now: float) -> list[Minute]:
        """Return the minutes that may have changed, and go on with the one of *now* alone."""
        told = list(self._minutes.values())
        current = int(now) // MINUTE_SECONDS * MINUTE_SECONDS
        self._minutes = {at: minute for at, minute in self._minutes.items() if at >= current}
        return told

    def _at(self, now: float) -> Minute:
        at = int(now) // MINUTE_SECONDS * MINUTE_SECONDS
        found = self._minutes.get(at)
        if found is None:
            found = self._minutes[at] = Minute(at, ttft={})
        return found


def _count(minute: Minute, record: Record) -> None:
    minute.requests += 1
    minute.errors += record.code is not None
    minute.left += record.left
    trailer, first = record.trailer, record.first_token_seconds
    if trailer is not None:
        minute.prompt_tokens += trailer.usage.prompt_tokens
        minute.completion_tokens += trailer.usage.completion_tokens
    if first is not None:
        step = math.ceil(math.log(max(first, _LEAST_SECONDS) / _LEAST_SECONDS) * _STEPS)
        minute.ttft[step] = minute.ttft.get(step, 0) + 1


def quantile(ttft: Mapping[int, int], share: float) -> float | None:
    """Return the time in seconds that a *share* of the requests, from 0 to 1, had their first token within."""
    wanted = share * sum(ttft.values())
    for step in sorted(ttft):
        wanted -= ttft[step]
        if wanted <= 0:
            return round(_LEAST_SECONDS * math.exp(step / _STEPS), 4)
    return None


def series(minutes: Sequence[Minute]) -> list[dict[str, Any]]:
    """Return *minutes* as a dashboard draws them: times in seconds, tokens also by the second."""
    return [
        {
            **{name: getattr(minute, name) for name in Minute.__struct_fields__ if name != "ttft"},
            "ttft_p50_seconds": quantile(minute.ttft, 0.5),
            "ttft_p95_seconds": quantile(minute.ttft, 0.95),
            "tokens_per_second": round(minute.completion_tokens / MINUTE_SECONDS, 3),
        }
        for minute in minutes
    ]
