from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import CortexError, Overloaded
from cortex.fleet.admission import Door, admit, expected_wait, queue_comment, retry_after


def door(**changed: Any) -> Door:
    """Return a door whose slots are all busy, and where nobody waits yet."""
    usual = {"model": "qwen", "waiting": 0, "flights": 4, "slots": 4, "seconds_each": 10.0, "depth": 8}
    return Door(**{**usual, "patience_seconds": 300.0, **changed})


def refused(door: Door) -> CortexError:
    refusal = admit(door)
    assert refusal is not None
    return refusal


def test_a_free_slot_is_open_even_where_nobody_may_wait() -> None:
    assert admit(door(flights=3, depth=0)) is None
    assert admit(door(flights=3, seconds_each=1000.0)) is None


def test_one_may_wait_until_the_queue_is_full() -> None:
    assert admit(door(waiting=7)) is None

    refusal = refused(door(waiting=8))

    assert isinstance(refusal, Overloaded)
    assert (refusal.status, refusal.code, refusal.retry_after_seconds) == (429, "rate_limit_exceeded", 23)
    assert refusal.message == (
        "qwen is overloaded: it serves 4 at once, 8 requests wait, and no more may wait; try again in 23 s"
    )


def test_who_waits_is_before_who_comes_even_if_a_slot_is_free() -> None:
    assert admit(door(waiting=8, flights=0)) is not None


def test_a_wait_that_cannot_end_in_time_is_not_begun() -> None:
    assert admit(door(waiting=3, patience_seconds=10.0)) is None

    refusal = refused(door(waiting=7, patience_seconds=10.0))

    assert refusal.retry_after_seconds == 10
    assert "a turn would come in about 20 s, and the limit is 10 s" in refusal.message


def test_while_no_replica_is_ready_only_the_depth_counts() -> None:
    cold = door(flights=0, slots=0, seconds_each=1000.0)

    assert admit(cold) is None
    assert "none yet, as it is being loaded" in refused(door(flights=0, slots=0, waiting=8)).message


def test_while_no_pace_is_known_nobody_is_refused_for_the_time() -> None:
    assert admit(door(waiting=7, seconds_each=0.0)) is None
    assert refused(door(waiting=8, seconds_each=0.0)).retry_after_seconds == 1


@pytest.mark.parametrize(
    ("place", "slots", "seconds"), [(0, 4, 0.0), (1, 4, 2.5), (4, 4, 10.0), (8, 4, 20.0), (3, 1, 30.0), (3, 0, 30.0)]
)
def test_a_turn_comes_each_time_a_slot_becomes_free(place: int, slots: int, seconds: float) -> None:
    assert expected_wait(place, slots, 10.0) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (11.2, "waiting: place 3 of 7, about 12 s"),
        (0.0, "waiting: place 3 of 7, about 1 s"),
        (119.5, "waiting: place 3 of 7, about 120 s"),
        (200.0, "waiting: place 3 of 7, about 3 min"),
    ],
)
def test_who_waits_is_told_the_place_and_the_time(seconds: float, text: str) -> None:
    assert queue_comment(3, 7, seconds) == text


@given(st.floats())
def test_every_client_honours_the_delay(seconds: float) -> None:
    after = retry_after(seconds)

    assert isinstance(after, int)
    assert 1 <= after <= 60


@given(st.floats(1.0, 60.0))
def test_a_delay_is_never_shorter_than_was_meant(seconds: float) -> None:
    assert seconds <= retry_after(seconds) <= seconds + 1


@given(st.integers(0, 10**6), st.integers(0, 1000), st.floats(0, 1e6), st.integers(0, 1000))
def test_who_is_further_behind_waits_longer(place: int, slots: int, seconds_each: float, further: int) -> None:
    near = expected_wait(place, slots, seconds_each)

    assert 0 <= near <= expected_wait(place + further, slots, seconds_each)
    assert near >= expected_wait(place, slots + further, seconds_each)


COUNTS = st.integers(0, 200)
DOORS = st.builds(
    Door, st.just("m"), COUNTS, COUNTS, COUNTS, st.floats(0, 1e4), COUNTS, st.floats(0, 1e4, exclude_min=True)
)


@given(DOORS)
def test_a_refusal_says_when_to_come_back_and_nobody_waits_beyond_the_depth(at: Door) -> None:
    refusal = admit(at)

    if refusal is None:
        assert at.waiting < at.depth or (at.waiting == 0 and at.flights < at.slots)
    else:
        assert refusal.retry_after_seconds is not None
        assert 1 <= refusal.retry_after_seconds <= 60
        assert f"try again in {refusal.retry_after_seconds} s" in refusal.message
