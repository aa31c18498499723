"""Virtual time goes forward, and what is arranged for one moment happens in the order of arranging."""

from __future__ import annotations

import pytest

from cortex.sim.agenda import Agenda


def test_what_is_earlier_happens_first_and_equals_in_their_order() -> None:
    """However they were arranged."""
    agenda, done = Agenda(), list[tuple[str, float]]()
    for name, at in (("late", 3.0), ("first", 1.0), ("second", 1.0)):
        agenda.at(at, lambda name=name: done.append((name, agenda.now)))

    for _ in range(3):
        agenda.step()

    assert done == [("first", 1.0), ("second", 1.0), ("late", 3.0)]
    assert agenda.steps == 3


def test_what_is_arranged_for_the_past_happens_now() -> None:
    """Time never goes back."""
    agenda, seen = Agenda(), list[float]()
    agenda.at(5.0, lambda: agenda.at(2.0, lambda: seen.append(agenda.now)))

    agenda.step()
    agenda.step()

    assert seen == [5.0]


def test_an_empty_agenda_cannot_go_on() -> None:
    """Whoever steps knows that something is to come."""
    with pytest.raises(IndexError):
        Agenda().step()
