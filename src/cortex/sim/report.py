"""What a simulation found, as plain values: for tables, for JSON, for a chart."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """How a time is spread over the requests, in seconds."""

    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """A model's share; as `Report` explains."""

    model: str
    requests: int
    answered: int
    refused: dict[str, int]
    broken: int
    cold_starts: int
    loads: int
    evictions: int
    queue_seconds: Spread
    ttft_seconds: Spread
    completion_tokens: int


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A node's share. `busy` is the fraction of the time with at least one request, `memory` the mean fraction held."""

    node: str
    requests: int
    loads: int
    evictions: int
    busy: float
    memory: float
    completion_tokens: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One fleet under one policy.

    `refused` counts by error code; `broken` are answers that a node's outage cut short. `cold_starts` are requests that
    came when no replica was ready, `loads` what was loaded, `swaps` the loads that something was evicted for, and
    `evictions` what went. `queue_seconds` is from a request's arrival to its slot, `ttft_seconds` to its first token.
    """

    fleet: str
    policy: str
    complete: bool
    seconds: float
    steps: int
    requests: int
    answered: int
    refused: dict[str, int]
    broken: int
    retries: int
    cold_starts: int
    loads: int
    failed_loads: dict[str, int]
    swaps: int
    evictions: int
    unloads: int
    queue_seconds: Spread
    cold_start_seconds: Spread
    ttft_seconds: Spread
    total_seconds: Spread
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    tokens_per_second: float
    busy: float
    memory: float
    models: list[ModelReport]
    nodes: list[NodeReport]


@dataclass(frozen=True, slots=True)
class Curve:
    """When each answered request came, and how long it waited for its first token, both in seconds."""

    name: str
    arrived: array[float]
    ttft: array[float]


def spread_of(seconds: Sequence[float]) -> Spread:
    """Return the spread of *seconds*; zeros if there are none."""
    if not seconds:
        return Spread()
    ordered = sorted(seconds)
    return Spread(
        mean=_rounded(sum(ordered) / len(ordered)),
        p50=_rounded(quantile(ordered, 0.5)),
        p90=_rounded(quantile(ordered, 0.9)),
        p99=_rounded(quantile(ordered, 0.99)),
        max=_rounded(ordered[-1]),
    )


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the least of *ordered*, which are not empty, that at least *fraction* of them do not exceed."""
    rank = -(-len(ordered) * round(fraction * 10_000) // 10_000)
    return ordered[max(0, min(len(ordered), rank) - 1)]


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
