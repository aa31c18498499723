"""Metric families as values, and the sums behind them: what both programs count with and Prometheus reads.

prometheus_client writes the text. The sums are our own: a request counts in a dozen of them, an addition here costs a
tenth of a child's lock and look-up there, and a series goes as soon as what it is about is gone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels = tuple[str, ...]

DURATION_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
SPEED_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """What is counted: its name (of a counter without `_total`), what it means, its labels; buckets of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed(self) -> str:
        """The name that Prometheus stores; of a histogram, what `_bucket`, `_sum` and `_count` are put behind."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


class Counts:
    """A counter's sums by labels."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Add *amount* to the series of *labels*, in the order of the family's."""
        self._sums[labels] = self._sums.get(labels, 0) + amount

    def put(self, labels: Labels, amount: float) -> None:
        """Say what the series of *labels* is, which somebody else counts."""
        self._sums[labels] = amount

    def keep(self, wanted: Callable[[Labels], bool]) -> None:
        """Let go of the series that are not *wanted*."""
        self._sums = {labels: value for labels, value in self._sums.items() if wanted(labels)}

    def collect(self) -> Metric:
        """Return the sums for Prometheus."""
        metric = CounterMetricFamily(self.family.name, self.family.text, labels=self.family.labels)
        for labels, value in self._sums.items():
            metric.add_metric(labels, value)
        return metric


class Distribution:
    """One series of a histogram: how many observations are in each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Take one observation."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulated(self) -> Iterator[tuple[str, float]]:
        """Yield each bucket's upper bound, and how many observations are at most that."""
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            below += count
            yield "+Inf" if bound == float("inf") else repr(float(bound)), below


class Distributions:
    """A histogram's series by labels."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._series: dict[Labels, Distribution] = {}

    def of(self, labels: Labels) -> Distribution:
        """Return the series of *labels*, in the order of the family's."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Distribution(self.family.buckets)
        return found

    def keep(self, wanted: Callable[[Labels], bool]) -> None:
        """Let go of the series that are not *wanted*."""
        self._series = {labels: series for labels, series in self._series.items() if wanted(labels)}

    def collect(self) -> Metric:
        """Return the series for Prometheus."""
        metric = HistogramMetricFamily(self.family.name, self.family.text, labels=self.family.labels)
        for labels, series in self._series.items():
            metric.add_metric(labels, list(series.cumulated()), series.total)
        return metric


def gauge(family: Family, values: Iterable[tuple[Labels, float | None]]) -> Metric:
    """Return a gauge of *values* by labels; what is None is not told."""
    metric = GaugeMetricFamily(family.name, family.text, labels=family.labels)
    for labels, value in values:
        if value is not None:
            metric.add_metric(labels, value)
    return metric
