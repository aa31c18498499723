"""Made-up traces: as many as were asked for, in order, in the shape that was asked for, and always the same ones."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from cortex.sim.generate import BURST_SECONDS, LONGEST_PROMPT_TOKENS, Wish, generate
from cortex.sim.trace import Arrival

MODELS = ("first", "second", "third")


def made(**keys: object) -> list[Arrival]:
    return list(generate(Wish(**{"requests": 2000, **keys}), MODELS))  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_trace_and_another_another() -> None:
    """So that two fleets are compared on the same requests."""
    assert made(seed=5, bursts=2) == made(seed=5, bursts=2)
    assert made(seed=5) != made(seed=6)


def test_all_requests_come_in_order_and_in_time() -> None:
    """Exactly as many as were asked for."""
    arrivals = made(hours=2.0, bursts=3)

    times = [arrival.at for arrival in arrivals]
    assert len(times) == 2000
    assert times == sorted(times)
    assert times[0] >= 0.0
    assert times[-1] <= 7200.0
    assert all(arrival.prompt_tokens >= 1 and arrival.completion_tokens >= 1 for arrival in arrivals)


def test_a_day_has_a_busy_afternoon_and_a_quiet_night() -> None:
    """A flat one has neither."""

    def hours(shape: str) -> Counter[int]:
        return Counter(int(arrival.at // 3600) for arrival in made(shape=shape, requests=8_000))

    assert hours("diurnal")[15] > 3 * hours("diurnal")[3]
    assert 0.8 < hours("flat")[15] / hours("flat")[3] < 1.25


def test_the_first_models_are_the_popular_ones() -> None:
    """By Zipf's law: the second has half of the first, the third a third."""
    counts = Counter(arrival.model for arrival in made(sessions=0.0, requests=11_000))

    assert 0.4 < counts["second"] / counts["first"] < 0.6
    assert 0.25 < counts["third"] / counts["first"] < 0.42


def test_a_conversation_stays_with_its_model_and_grows() -> None:
    """Each turn's prompt has the turn before in it, up to the longest prompt."""
    turns: dict[str, list[Arrival]] = {}
    for arrival in made(sessions=1.0):
        assert arrival.session is not None
        turns.setdefault(arrival.session, []).append(arrival)

    assert sum(len(each) for each in turns.values()) / len(turns) > 3
    for each in turns.values():
        assert len({arrival.model for arrival in each}) == 1
        for before, after in pairwise(each):
            whole = before.prompt_tokens + before.completion_tokens
            assert after.prompt_tokens > whole or after.prompt_tokens == LONGEST_PROMPT_TOKENS


def test_a_burst_is_many_requests_to_one_model_in_a_short_time() -> None:
    """A tenth of all come in it."""
    arrivals = made(bursts=1, sessions=0.0, shape="flat", zipf=0.0, requests=20_000)

    windows = Counter(int(arrival.at // BURST_SECONDS) for arrival in arrivals if arrival.model == "first")
    assert sum(count for _, count in windows.most_common(2)) > 1900
