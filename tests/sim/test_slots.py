"""Requests share a replica: each is as fast as what else it has to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.sim.slots import Slots


def run(slots: Slots[str]) -> list[tuple[str, bool, float]]:
    """Return each milestone with its time, to the last."""
    reached = []
    while (at := slots.next_at()) != float("inf"):
        request, is_done = slots.reach(at)
        reached.append((request, is_done, round(at, 9)))
    return reached


def test_a_request_alone_takes_its_own_time() -> None:
    """First the prompt, then the answer."""
    slots: Slots[str] = Slots(2, 0.5, 10.0)

    slots.start("a", 1.0, 3.0, 10.0)

    assert run(slots) == [("a", False, 11.0), ("a", True, 14.0)]
    assert slots.requests == []


def test_two_at_once_slow_each_other_down() -> None:
    """With a slowdown of a half, two at once take half as long again, until the first is done."""
    slots: Slots[str] = Slots(2, 0.5, 0.0)

    slots.start("a", 1.0, 1.0, 0.0)
    slots.start("b", 1.0, 3.0, 0.0)

    assert run(slots) == [("a", False, 1.5), ("b", False, 1.5), ("a", True, 3.0), ("b", True, 5.0)]


def test_one_that_comes_later_slows_down_only_what_is_left() -> None:
    """What was done before stays done."""
    slots: Slots[str] = Slots(2, 1.0, 0.0)

    slots.start("a", 0.0, 4.0, 0.0)
    assert slots.reach(slots.next_at()) == ("a", False)
    slots.start("b", 0.0, 1.0, 2.0)

    assert run(slots) == [("b", False, 2.0), ("b", True, 4.0), ("a", True, 5.0)]


def test_without_slowdown_nobody_notices_the_others() -> None:
    """As an engine that is bound by something else."""
    slots: Slots[str] = Slots(3, 0.0, 0.0)

    for name in "abc":
        slots.start(name, 1.0, 1.0, 0.0)

    assert {at for _, is_done, at in run(slots) if is_done} == {2.0}


@given(work=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=5), slowdown=st.floats(0, 2))
def test_all_are_done_once_and_no_later_than_one_after_the_other_slowed_down(
    work: list[tuple[float, float]], slowdown: float
) -> None:
    """Time goes forward, and each has its first token before its last."""
    slots: Slots[int] = Slots(len(work), slowdown, 0.0)
    for number, (first, rest) in enumerate(work):
        slots.start(number, first, rest, 0.0)

    reached, before = [], 0.0
    while (at := slots.next_at()) != float("inf"):
        assert at >= before - 1e-9
        before = at
        reached.append(slots.reach(at))

    assert sorted(reached) == sorted((n, done) for n in range(len(work)) for done in (False, True))
    longest = max(first + rest for first, rest in work)
    assert longest - 1e-9 <= before <= longest * (1 + slowdown * (len(work) - 1)) + 1e-6


def test_nothing_is_next_where_nothing_is() -> None:
    """An empty replica sleeps for ever."""
    assert Slots(1, 0.0, 0.0).next_at() == pytest.approx(float("inf"))
