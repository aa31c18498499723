"""What one request of a load test was like, and what many of them come to. Pure.

The terms are the field's: TTFT, the time to the first token; ITL, the time between two tokens; a *level* is a number of
requests that are always under way. Percentiles are nearest-rank: each is a time that some request really took.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was sent, and when each piece of its answer came, in seconds of one clock.

    `tokens` is what the server counted, None if it did not say; an `error` says why there is no whole answer.
    """

    sent: float
    pieces: tuple[float, ...] = ()
    ended: float = 0.0
    tokens: int | None = None
    prompt_tokens: int | None = None
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Seconds to the first piece with content."""
        return self.pieces[0] - self.sent

    @property
    def gaps(self) -> Iterable[float]:
        """Seconds between one piece and the next."""
        return (later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False))

    @property
    def produced(self) -> int:
        """Tokens of the answer: as counted by the server, else one for each piece."""
        return len(self.pieces) if self.tokens is None else self.tokens


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the tail of a figure, in seconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Level:
    """What came of all requests at one concurrency. Rates are over the whole level, in tokens or requests a second."""

    concurrency: int
    requests: int
    seconds: float
    errors: tuple[str, ...]
    ttft: Spread | None
    itl: Spread | None
    latency: Spread | None
    output_rate: float
    request_rate: float
    prompt_tokens: int
    counted: bool


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted *values*: the smallest that *share* of them do not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Iterable[float]) -> Spread | None:
    """Return the percentiles of *values*, None if there is none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Spread(percentile(ordered, 0.5), percentile(ordered, 0.9), percentile(ordered, 0.99))


def level_of(concurrency: int, samples: Sequence[Sample]) -> Level:
    """Return the figures of one level, from at least one sample."""
    good = [sample for sample in samples if sample.error is None]
    began, ended = min(sample.sent for sample in samples), max(sample.ended for sample in samples)
    seconds = max(ended - began, 1e-9)
    return Level(
        concurrency=concurrency,
        requests=len(good),
        seconds=seconds,
        errors=tuple(sample.error for sample in samples if sample.error is not None),
        ttft=spread(sample.ttft for sample in good if sample.pieces),
        itl=spread(gap for sample in good for gap in sample.gaps),
        latency=spread(sample.ended - sample.sent for sample in good),
        output_rate=sum(sample.produced for sample in good) / seconds,
        request_rate=len(good) / seconds,
        prompt_tokens=sum(sample.prompt_tokens or 0 for sample in good),
        counted=all(sample.tokens is not None for sample in good),
    )


def knee(levels: Sequence[Level]) -> Level | None:
    """Return the level after which more concurrency buys little throughput; None if fewer than three tell.

    It is the point farthest above the line from the first level to the last, both axes scaled to 1: Satopaa et al.,
    "Finding a Kneedle in a Haystack", 2011. Where throughput grows in step with concurrency there is none.
    """
    told = sorted((level for level in levels if level.requests), key=lambda level: level.concurrency)
    if len(told) < 3:
        return None
    width = told[-1].concurrency - told[0].concurrency
    rates = [level.output_rate for level in told]
    low, height = min(rates), max(rates) - min(rates)
    if not width or not height:
        return None

    def above(level: Level) -> float:
        return (level.output_rate - low) / height - (level.concurrency - told[0].concurrency) / width

    best = max(told, key=above)
    return best if above(best) > 0.1 else None
