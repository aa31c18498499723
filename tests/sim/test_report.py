"""Quantiles of what was measured, never of what lies between."""

from __future__ import annotations

from cortex.sim.report import Spread, quantile, spread_of


def test_a_quantile_is_the_least_that_enough_do_not_exceed() -> None:
    """Of a hundred, the 99th is p99; of three, the last one is."""
    hundred = [float(number) for number in range(1, 101)]

    assert [quantile(hundred, fraction) for fraction in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0)] == [1, 1, 50, 90, 99, 100]
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0
    assert quantile([7.0], 0.5) == 7.0


def test_a_spread_is_of_all_in_whatever_order() -> None:
    """And of nothing it is nothing."""
    assert spread_of([3.0, 1.0, 2.0]) == Spread(mean=2.0, p50=2.0, p90=3.0, p99=3.0, max=3.0)
    assert spread_of([]) == Spread()
