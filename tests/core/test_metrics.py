"""Sums of metrics, and what Prometheus is told of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric

from cortex.core.metrics import TTFT_BUCKETS, Counts, Distributions, Family, gauge

SEEN = Family("seen", "counter", "Seen", ("where",))
TOOK = Family("took", "histogram", "Took", ("where",), TTFT_BUCKETS)


def samples(metric: Metric) -> dict[tuple[str, str, str], float]:
    return {(s.name, s.labels.get("where", ""), s.labels.get("le", "")): s.value for s in metric.samples}


def test_a_counter_adds_up_by_labels() -> None:
    counts = Counts(SEEN)
    counts.add(("here",))
    counts.add(("here",), 2)
    counts.add(("there",))

    assert samples(counts.collect()) == {("seen_total", "here", ""): 3, ("seen_total", "there", ""): 1}


@given(st.lists(st.floats(0, 200), max_size=50))
def test_a_histogram_tells_what_the_official_one_tells(values: list[float]) -> None:
    registry = CollectorRegistry()
    official = Histogram("took", "Took", ["where"], buckets=TTFT_BUCKETS, registry=registry).labels("here")
    ours = Distributions(TOOK)
    series = ours.of(("here",))
    for value in values:
        official.observe(value)
        series.observe(value)
    expected = {k: v for metric in registry.collect() for k, v in samples(metric).items() if "created" not in k[0]}

    assert samples(ours.collect()) == expected


def test_what_is_not_kept_is_gone() -> None:
    counts, took = Counts(SEEN), Distributions(TOOK)
    for where in ("here", "there"):
        counts.add((where,))
        took.of((where,)).observe(1)
    for sums in (counts, took):
        sums.keep(lambda labels: labels == ("here",))

    assert {where for _, where, _ in samples(counts.collect())} == {"here"}
    assert {where for _, where, _ in samples(took.collect())} == {"here"}


def test_a_gauge_leaves_out_what_is_not_known() -> None:
    told = gauge(Family("heat", "gauge", "Heat", ("where",)), [(("here",), 1.5), (("there",), None)])

    assert samples(told) == {("heat", "here", ""): 1.5}
