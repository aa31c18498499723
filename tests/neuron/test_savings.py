"""How many tokens a cancelled answer would still have had."""

from __future__ import annotations

import pytest

from cortex.neuron.savings import KEPT_ANSWERS, Savings


@pytest.mark.parametrize(
    ("came", "limit", "saved"),
    [
        (0, None, 100),  # 50, 100 and 150 were seen
        (60, None, 65),  # of which two were longer
        (60, 90, 30),
        (150, None, 0),  # none was: nothing is known
        (150, 1000, 850),
        (150, 100, 0),
    ],
)
def test_the_mean_of_longer_answers_counts_up_to_the_limit(came: int, limit: int | None, saved: int) -> None:
    savings = Savings()
    for length in (50, 100, 150):
        savings.learn("m", length)

    assert savings.saved("m", came, limit) == saved


def test_without_an_answer_to_go_by_only_a_limit_says_anything() -> None:
    assert Savings().saved("m", 3, None) == 0
    assert Savings().saved("m", 3, 10) == 7


def test_models_are_apart_and_old_answers_are_forgotten() -> None:
    savings = Savings()
    savings.learn("m", 10_000)
    for _ in range(KEPT_ANSWERS):
        savings.learn("m", 20)
    savings.learn("other", 500)

    assert savings.saved("m", 10, None) == 10
