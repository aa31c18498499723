from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.cli.loadtest.samples import Level, Sample, knee, level_of, percentile, spread


def level(concurrency: int, rate: float, requests: int = 8) -> Level:
    return Level(concurrency, requests, 1.0, (), None, None, None, rate, 1.0, 0, True)


def test_times_of_a_request_are_from_its_sending_and_between_its_pieces() -> None:
    sample = Sample(sent=10.0, pieces=(10.5, 10.75, 11.25), ended=11.5, tokens=3)

    assert sample.ttft == 0.5
    assert list(sample.gaps) == [0.25, 0.5]


@pytest.mark.parametrize(("tokens", "produced"), [(7, 7), (None, 2), (0, 0)])
def test_tokens_are_those_the_server_counted_else_one_a_piece(tokens: int | None, produced: int) -> None:
    assert Sample(0.0, (1.0, 2.0), 2.0, tokens).produced == produced


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.9, 4.0), (0.25, 1.0), (0.0, 1.0), (1.0, 4.0)])
def test_a_percentile_is_a_time_that_was_measured(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_in_order_and_among_the_values(values: list[float]) -> None:
    found = spread(values)

    assert found is not None
    assert found.p50 <= found.p90 <= found.p99 <= max(values)
    assert {found.p50, found.p90, found.p99} <= set(values)


def test_nothing_measured_has_no_spread() -> None:
    assert spread([]) is None


def test_rates_of_a_level_are_over_all_of_it_and_failures_are_told_apart() -> None:
    samples = [
        Sample(0.0, (1.0, 2.0), 2.0, 10, 5),
        Sample(0.0, (1.5,), 4.0, 30, 5),
        Sample(1.0, ended=1.5, error="HTTP 429: too many"),
    ]

    found = level_of(2, samples)

    assert (found.requests, found.seconds, found.output_rate, found.request_rate) == (2, 4.0, 10.0, 0.5)
    assert found.errors == ("HTTP 429: too many",)
    assert found.prompt_tokens == 10
    assert found.ttft is not None
    assert found.ttft.p99 == 1.5


def test_a_level_in_which_all_failed_has_no_times() -> None:
    found = level_of(1, [Sample(0.0, ended=0.0, error="gone")])

    assert (found.requests, found.ttft, found.itl, found.latency) == (0, None, None, None)


def test_the_knee_is_where_throughput_flattens() -> None:
    levels = [level(1, 10), level(2, 20), level(4, 39), level(8, 42), level(16, 43)]

    assert knee(levels) is levels[2]


@pytest.mark.parametrize(
    "levels",
    [
        [level(1, 10), level(2, 20), level(4, 40)],
        [level(1, 10), level(8, 20)],
        [level(1, 5), level(2, 5), level(4, 5)],
        [level(4, 5), level(4, 6), level(4, 7)],
        [level(1, 5), level(2, 9, requests=0), level(4, 9)],
    ],
    ids=["in step", "too few", "flat", "one width", "too few that told"],
)
def test_without_a_bend_there_is_no_knee(levels: list[Level]) -> None:
    assert knee(levels) is None
