"""Minutes add up what happened in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.fleet.work import Event
from cortex.gateway.trace.history import History, quantile, series
from ended_requests import ended

EPOCH = 1_000_000.0 - 1_000_000 % 60  # a whole minute


def history(*seconds: float) -> History:
    found = History()
    found.count([ended(ended=at, arrived=at - 2, sent_at=at - 1.5) for at in seconds], EPOCH)
    return found


def test_a_request_counts_in_the_minute_in_which_it_ended() -> None:
    minutes = history(10, 59, 61).unwritten(EPOCH + 61)

    assert [(minute.minute - EPOCH, minute.requests) for minute in minutes] == [(0, 2), (60, 1)]
    assert minutes[0].completion_tokens == 22


def test_only_the_minute_that_is_not_over_is_gone_on_with() -> None:
    found = history(10, 61)
    found.unwritten(EPOCH + 61)

    assert [minute.minute - EPOCH for minute in found.unwritten(EPOCH + 62)] == [60]


def test_a_restart_goes_on_counting_in_the_same_minute() -> None:
    before, after = history(10), History()
    after.begin_with(before.unwritten(EPOCH + 11))
    after.count([ended(ended=12)], EPOCH)

    assert [minute.requests for minute in after.unwritten(EPOCH + 13)] == [2]


def test_the_most_that_waited_at_any_look_is_told_and_what_was_decided() -> None:
    found = History()
    for waiting in (1, 5, 2):
        found.look(waiting, 10 - waiting, EPOCH)
    for kind in ("load_started", "load_failed", "evicted", "planned"):
        found.decided(Event(0.0, kind, "m", "a", "", {}), EPOCH)
    (told,) = series(found.unwritten(EPOCH))

    assert (told["waiting"], told["in_flight"]) == (5, 9)
    assert (told["loads"], told["load_failures"], told["evictions"]) == (1, 1, 1)
    assert told["ttft_p50_seconds"] is None


@given(st.lists(st.floats(0.002, 600), min_size=1, max_size=200))
def test_a_quantile_is_within_a_step_of_the_true_one(seconds: list[float]) -> None:
    found = History()
    found.count([ended(arrived=1000 - at, sent_at=1000 - 0.25) for at in seconds], EPOCH)
    (minute, *_) = found.unwritten(EPOCH)
    true = sorted(seconds)[max(0, -(-len(seconds) // 2) - 1)]

    assert quantile(minute.ttft, 0.5) == pytest.approx(true, rel=0.051)
