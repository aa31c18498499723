from __future__ import annotations

from collections.abc import Callable

import pytest

from cortex.fleet.learned import Learned
from cortex.fleet.situation import UNKNOWN, Need
from cortex.fleet.view import ReplicaView, Spot

A, B = ("a", "m"), ("b", "m")
NEED = Need((5,), "measured")


def test_each_node_is_asked_once_what_a_model_takes() -> None:
    learned = Learned()

    assert [learned.ask(A), learned.ask(A), learned.ask(B)] == [True, False, True]


def test_a_node_that_cannot_tell_has_answered_too() -> None:
    learned = Learned()
    learned.needs(A, UNKNOWN)

    assert learned.knows(A)
    assert not learned.knows(B)
    assert learned.need("m", "a") == learned.need("m", "b") == UNKNOWN


@pytest.mark.parametrize(
    ("forget", "kept"),
    [
        (lambda learned: learned.forget([A]), {B, ("a", "n")}),
        (lambda learned: learned.forget_models(["m"]), {("a", "n")}),
        (lambda learned: learned.forget_node("a"), {B}),
        (lambda learned: learned.forget_node("c"), {A, B, ("a", "n")}),
    ],
)
def test_what_is_forgotten_is_asked_again(forget: Callable[[Learned], None], kept: set[Spot]) -> None:
    learned, spots = Learned(), (A, B, ("a", "n"))
    for spot in spots:
        learned.ask(spot)
        learned.needs(spot, NEED)
    forget(learned)

    assert {spot for spot in spots if learned.knows(spot)} == kept
    assert {spot for spot in spots if not learned.ask(spot)} == kept


def test_one_that_was_asked_and_has_not_answered_is_forgotten_too() -> None:
    learned = Learned()
    learned.ask(A)
    learned.forget_node("a")

    assert learned.ask(A)


def test_the_mean_of_load_times_is_over_the_nodes() -> None:
    learned = Learned()
    for spot, seconds in ((A, 9.0), (A, 4.0), (B, 8.0), (("a", "n"), 100.0)):
        learned.took(spot, seconds)

    assert learned.load_seconds[A] == 4.0
    assert learned.mean_load_seconds == {"m": 6.0, "n": 100.0}


def test_a_node_s_word_counts_where_nothing_was_measured() -> None:
    learned = Learned()
    learned.took(A, 4.0)
    learned.heard(ReplicaView("m", "a", "ready", load_seconds=50.0))
    learned.heard(ReplicaView("m", "b", "ready", load_seconds=6.0))
    learned.heard(ReplicaView("m", "c", "ready"))

    assert learned.load_seconds == {A: 4.0, B: 6.0}
