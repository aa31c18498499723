from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.gateway.keys.rates import UNDER_WAY_RETRY_SECONDS, Allowance, Quota, Window, budget, per_minute

NOW = 1_800_000_000.0
# Steps in time, among them those that meet the edges of grains and windows.
STEPS = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 59.0, 60.0, 61.0]), st.floats(0, 90, allow_nan=False))


def test_a_window_forgets_what_is_older_than_it() -> None:
    window = Window(60.0, 1.0)
    window.add(5, NOW)

    assert window.used(NOW + 60.9) == 5
    assert window.used(NOW + 61.0) == 0


def test_a_window_is_never_larger_than_its_grains() -> None:
    window = Window(60.0, 1.0)
    for tick in range(10_000):
        window.add(1, NOW + tick / 10)
        window.used(NOW + tick / 10)

    assert len(window._grains) <= 61


def test_use_at_an_earlier_time_is_booked_on_the_newest_grain() -> None:
    window = Window(60.0, 1.0)
    window.add(1, NOW)
    window.add(1, NOW - 3600)

    assert window.empty_at(NOW) == window.free_at(2, NOW) == NOW + 61
    assert window.used(NOW + 60) == 2
    assert window.used(NOW + 61) == 0


@given(st.lists(st.tuples(STEPS, st.integers(1, 50)), min_size=1, max_size=40), st.sampled_from([1.0, 7.0, 60.0]))
def test_a_window_counts_at_least_what_was_used_and_at_most_a_grain_more(
    steps: list[tuple[float, int]], grain: float
) -> None:
    window, log = Window(60.0, grain), []
    now = NOW
    for step, amount in steps:
        now += step
        window.add(amount, now)
        log.append((now, amount))

        counted = window.used(now)
        assert counted >= sum(a for at, a in log if at > now - 60)
        assert counted <= sum(a for at, a in log if at > now - 60 - grain - 1e-6)


@given(st.lists(st.tuples(STEPS, st.integers(1, 50)), min_size=1, max_size=20), st.integers(1, 1000))
def test_a_window_frees_what_it_says_when_it_says(steps: list[tuple[float, int]], wanted: int) -> None:
    window, now = Window(60.0, 1.0), NOW
    for step, amount in steps:
        now += step
        window.add(amount, now)
    held = window.used(now)
    amount = min(wanted, held)

    at = window.free_at(amount, now)

    assert now <= at <= now + 61
    assert window.used(at) <= held - amount


@given(st.integers(1, 20), st.lists(STEPS, min_size=1, max_size=80))
def test_no_minute_holds_more_requests_than_the_limit(limit: int, steps: list[float]) -> None:
    allowance = per_minute(limit)
    admitted = []
    for now in accumulate(steps, initial=NOW):
        if not allowance.wait(1, now):
            allowance.settle(0, 1, now)
            admitted.append(now)

    assert admitted
    for start in admitted:
        assert sum(start <= at < start + 60 for at in admitted) <= limit


REQUESTS = st.lists(
    st.tuples(STEPS, st.integers(1, 400), st.floats(0, 1, allow_nan=False), st.integers(0, 5)), min_size=1, max_size=60
)


@given(REQUESTS)
def test_no_minute_pays_more_tokens_than_the_limit_while_nobody_exceeds_what_was_set_aside(
    requests: list[tuple[float, int, float, int]],
) -> None:
    """Requests overlap: each is paid after some later ones were let in, for a part of what it had set aside."""
    limit, now = 500, NOW
    allowance = per_minute(limit)
    under_way: list[tuple[int, int]] = []
    paid: list[tuple[float, int]] = []
    for step, wanted, part, keep in requests:
        now += step
        share = allowance.share(wanted)
        if not allowance.wait(share, now):
            allowance.reserve(share)
            under_way.append((share, int(share * part)))
        while len(under_way) > keep:
            reserved, used = under_way.pop(0)
            allowance.settle(reserved, used, now)
            paid.append((now, used))

        set_aside = sum(reserved for reserved, _ in under_way)
        assert sum(used for at, used in paid if at > now - 60) + set_aside <= limit
        assert 0 <= allowance.quota(now).remaining <= limit


@given(REQUESTS)
def test_all_that_was_set_aside_comes_back(requests: list[tuple[float, int, float, int]]) -> None:
    allowance, now = per_minute(500), NOW
    for step, wanted, part, _ in requests:
        now += step
        share = allowance.share(wanted)
        allowance.reserve(share)
        allowance.settle(share, int(share * part * 3), now)

    assert allowance.quota(now + 61) == Quota(500, 500, now + 61)


def test_a_request_larger_than_the_limit_is_let_in_when_nothing_else_is_there() -> None:
    """It could never be had otherwise; what it took above the limit is a debt until it leaves the window."""
    allowance = per_minute(100)
    share = allowance.share(5000)
    assert share == 100
    assert allowance.wait(share, NOW) == 0
    allowance.reserve(share)
    allowance.settle(share, 300, NOW)

    assert allowance.quota(NOW).remaining == 0
    assert allowance.wait(1, NOW) == 61.0
    assert allowance.wait(1, NOW + 61.0) == 0.0


def test_what_only_requests_under_way_hold_may_be_free_at_any_moment() -> None:
    allowance = per_minute(100)
    allowance.reserve(100)

    assert allowance.wait(1, NOW) == UNDER_WAY_RETRY_SECONDS
    assert allowance.quota(NOW) == Quota(100, 0, NOW + 60)


@given(REQUESTS, st.integers(1, 500))
def test_who_waits_as_told_is_let_in(requests: list[tuple[float, int, float, int]], wanted: int) -> None:
    allowance, now = per_minute(500), NOW
    for step, used, _, _ in requests:
        now += step
        allowance.settle(0, used, now)

    assert not allowance.wait(wanted, now + allowance.wait(wanted, now))


@pytest.mark.parametrize(
    ("seconds", "grain"), [(60.0, 60.0), (3600.0, 60.0), (86_400.0, 300.0), (30 * 86_400.0, 9000.0)]
)
def test_a_budget_is_counted_in_whole_minutes_and_few_pieces(seconds: float, grain: float) -> None:
    window = budget(1, seconds)._window

    assert (window.seconds, window.grain_seconds) == (seconds, grain)


def test_a_budget_returns_as_it_ages() -> None:
    allowance = Allowance(100, Window(3600.0, 60.0))
    allowance.settle(0, 60, NOW)
    allowance.settle(0, 40, NOW + 1800)

    assert allowance.wait(60, NOW + 1800) == 1860
    assert allowance.wait(61, NOW + 1800) == 3660
