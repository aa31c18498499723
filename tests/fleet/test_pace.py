from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.fleet.pace import (
    FASTEST,
    SLOWEST,
    UNLEARNED,
    Pace,
    Shape,
    learn,
    learn_shape,
    mean_pace,
    service_seconds,
)
from cortex.wire.engine_api import Timings, Usage


def after(
    pace: Pace | None, *, prompt: int = 1000, answer: int = 100, cached: int = 0, prefill: float = 0, decode: float = 0
) -> Pace:
    """Return *pace* after a request with so many tokens, that took so many milliseconds."""
    return learn(pace, Usage(prompt, answer, cached), Timings(prefill_ms=prefill, decode_ms=decode))


def test_the_first_request_is_believed() -> None:
    pace = after(None, prefill=500, decode=2000)

    assert (pace.prefill, pace.decode) == pytest.approx((2000, 50))
    assert pace.samples == 1


def test_a_few_requests_move_a_pace_fast_and_later_ones_slowly() -> None:
    young, old = after(None, decode=1000), None
    for _ in range(50):
        old = after(old, decode=1000)

    young, old = after(young, decode=2000), after(old, decode=2000)

    assert young.decode == pytest.approx(100 / 2 ** (1 / 2))
    assert old.decode == pytest.approx(100 / 2 ** (1 / 16))


def test_a_replica_that_became_slower_is_known_to_be_within_fifty_requests() -> None:
    pace = None
    for decode in [1000] * 100 + [2000] * 50:
        pace = after(pace, decode=decode)

    assert pace is not None
    assert pace.decode == pytest.approx(50, rel=0.05)


def test_only_tokens_that_were_computed_count_for_the_prefill() -> None:
    assert after(None, prompt=1000, cached=800, prefill=100).prefill == pytest.approx(2000)
    told_apart = learn(None, Usage(1000, 0), Timings(prefill_ms=100, cached_tokens=800))
    assert told_apart.prefill == pytest.approx(2000)


def test_a_prompt_that_was_cached_whole_teaches_nothing_of_the_prefill() -> None:
    known = after(None, prefill=500, decode=2000)

    assert after(known, cached=999, prefill=30, decode=2000).prefill == known.prefill
    assert after(known, cached=1200, prefill=30, decode=2000).prefill == known.prefill


def test_a_tiny_answer_teaches_nothing_and_a_short_one_little() -> None:
    known = after(None, prefill=500, decode=2000)

    assert after(known, answer=1, decode=200).decode == known.decode
    assert known.decode > after(known, answer=4, decode=800).decode > after(known, answer=16, decode=3200).decode


@pytest.mark.parametrize("milliseconds", [0, -5, float("inf"), float("nan")])
def test_without_times_nothing_is_learned(milliseconds: float) -> None:
    assert after(None, prefill=milliseconds, decode=milliseconds) is UNLEARNED
    known = after(None, prefill=500, decode=2000)
    assert after(known, prefill=milliseconds, decode=milliseconds) is known


def test_without_tokens_nothing_is_learned() -> None:
    assert learn(None, Usage(), Timings(prefill_ms=100, decode_ms=100)) is UNLEARNED


def test_what_was_never_measured_is_guessed_from_the_other_half_and_then_measured() -> None:
    cached = after(None, cached=1000, decode=2000)
    embedding = after(None, answer=0, prefill=500)

    assert (cached.prefill, cached.decode) == pytest.approx((500, 50))
    assert (embedding.prefill, embedding.decode) == pytest.approx((2000, 200))
    assert after(cached, prefill=250, decode=2000).prefill == pytest.approx(4000)


def test_one_hiccup_does_not_carry_a_pace_away() -> None:
    pace = None
    for _ in range(20):
        pace = after(pace, decode=1000)

    assert after(pace, decode=100_000).decode > 70
    assert after(pace, decode=0.001).decode < 250


def test_a_shape_is_the_mean_of_the_first_requests_and_then_moves_slowly() -> None:
    shape = learn_shape(learn_shape(None, Usage(100, 10)), Usage(300, 30))

    assert (shape.prompt_tokens, shape.completion_tokens, shape.samples) == (200, 20, 2)
    for _ in range(100):
        shape = learn_shape(shape, Usage(200, 20))
    assert learn_shape(shape, Usage(840, 84)) == Shape(210, 21, 64)


def test_a_request_without_a_prompt_has_no_shape() -> None:
    assert learn_shape(None, Usage()) == Shape()
    assert learn_shape(Shape(5, 5, 3), Usage()) == Shape(5, 5, 3)


def test_service_takes_the_prompt_that_is_not_cached_and_the_answer() -> None:
    pace, shape = Pace(1000, 50), Shape(2000, 100)

    assert service_seconds(pace, shape) == 4
    assert service_seconds(pace, shape, 0.5) == 3
    assert service_seconds(pace, shape, 1.0) == 2


def test_the_mean_leaves_out_what_was_never_measured() -> None:
    assert mean_pace([]) is UNLEARNED
    assert mean_pace([UNLEARNED]) is UNLEARNED
    mean = mean_pace([Pace(1000, 50), UNLEARNED, Pace(3000, 150)])
    assert (mean.prefill, mean.decode) == (2000, 100)


@given(st.lists(st.builds(Pace, st.floats(SLOWEST, FASTEST), st.floats(SLOWEST, FASTEST)), max_size=8), st.randoms())
def test_the_mean_does_not_depend_on_the_order(paces: list[Pace], luck: Random) -> None:
    assert mean_pace(luck.sample(paces, len(paces))) == mean_pace(paces)


COUNTS = st.integers(-5, 10**7)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS)
TIMES = st.floats(allow_nan=True, allow_infinity=True)
TIMINGS = st.builds(Timings, TIMES, TIMES, TIMES, COUNTS)


@given(st.lists(st.tuples(USAGES, TIMINGS), max_size=30))
def test_whatever_an_engine_reports_rates_stay_usable(reports: list[Any]) -> None:
    pace, shape = None, None
    for usage, timings in reports:
        pace, shape = learn(pace, usage, timings), learn_shape(shape, usage)
        # A guess for the half that was never measured may lie ten times beyond.
        assert SLOWEST / 11 <= pace.prefill <= FASTEST * 11
        assert SLOWEST / 11 <= pace.decode <= FASTEST * 11
        assert 0 <= service_seconds(pace, shape) < float("inf")


@given(st.floats(10, 1e5), st.floats(1, 1e3), st.integers(0, 2**32))
def test_a_noisy_replica_is_known_after_some_requests(prefill: float, decode: float, seed: int) -> None:
    luck, pace = Random(seed), None
    for _ in range(40):
        prompt, answer = luck.randrange(200, 4000), luck.randrange(20, 400)
        noise = luck.uniform(0.8, 1.25)
        pace = after(
            pace,
            prompt=prompt,
            answer=answer,
            prefill=prompt / prefill * 1000 * noise,
            decode=answer / decode * 1000 * noise,
        )

    assert pace is not None
    assert pace.prefill == pytest.approx(prefill, rel=0.2)
    assert pace.decode == pytest.approx(decode, rel=0.2)
