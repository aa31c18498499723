"""Which token follows: reproducible, and as each request asks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from collections import Counter  # noqa: E402
from typing import Any  # noqa: E402

from cortex.engines.transformers.sampling import Sampler, Sampling  # noqa: E402

pytestmark = pytest.mark.tp
LOGITS = [2.0, 1.0, 0.0, -1.0, -5.0]


def draw(count: int, logits: list[float] | None = None, *, prompt: list[int] | None = None, **asked: Any) -> list[int]:
    sampler = Sampler(Sampling(**asked), prompt or [], 0, None)
    row = torch.tensor(LOGITS if logits is None else logits)
    return [sampler.choose(row).token for _ in range(count)]


def test_a_temperature_of_nothing_takes_the_likeliest() -> None:
    assert draw(5, temperature=0.0) == [0] * 5


def test_a_seed_repeats_and_another_does_not() -> None:
    first, again, other = (draw(40, seed=seed) for seed in (1, 1, 2))

    assert first == again != other


def test_the_choices_of_one_seed_differ() -> None:
    rows = [Sampler(Sampling(seed=1), [], index, None) for index in (0, 1)]

    assert len({tuple(row.choose(torch.tensor(LOGITS)).token for _ in range(40)) for row in rows}) == 2


def test_without_a_seed_nothing_repeats() -> None:
    assert draw(60) != draw(60)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    counts = Counter(draw(4000, seed=3))

    expected = torch.tensor(LOGITS).softmax(0)
    assert all(abs(counts[token] / 4000 - float(expected[token])) < 0.03 for token in range(5))


@pytest.mark.parametrize(
    ("asked", "possible"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.8}, {0, 1}),
        ({"min_p": 0.3}, {0, 1}),
        ({"top_k": 1, "temperature": 2.0}, {0}),
        ({"logit_bias": {4: 100.0}}, {4}),
        ({"logit_bias": {0: -100.0, 1: -100.0}, "top_k": 1}, {2}),
        ({"logit_bias": {10**9: 5.0}, "top_k": 1}, {0}),
    ],
)
def test_what_is_left_out_never_comes(asked: dict[str, Any], possible: set[int]) -> None:
    assert set(draw(300, seed=5, **asked)) == possible


def test_typical_tokens_are_those_of_usual_surprise() -> None:
    """Four of the same likelihood are more typical than one that is a little likelier."""
    assert 0 not in draw(200, [0.9, 0.0, 0.0, 0.0, 0.0, -9.0], seed=1, typical_p=0.5)


def test_a_large_vocabulary_is_sorted_where_its_best_do_not_hold_enough() -> None:
    flat = [0.0] * 5000

    assert max(draw(200, flat, seed=1, top_p=0.99)) > 1024


def test_a_repeated_token_loses_its_lead() -> None:
    assert draw(2, [1.0, 0.9], temperature=0.0, frequency_penalty=0.2) == [0, 1]
    assert draw(2, [1.0, 0.9], temperature=0.0, presence_penalty=0.2) == [0, 1]


def test_a_penalty_for_repeats_counts_the_prompt_and_spares_no_negative() -> None:
    assert draw(1, [1.0, 0.9], prompt=[0], temperature=0.0, repeat_penalty=1.5) == [1]
    assert draw(1, [-0.9, -1.0], prompt=[0], temperature=0.0, repeat_penalty=1.5) == [1]


def test_log_probabilities_are_the_models_own() -> None:
    chosen = Sampler(Sampling(temperature=0.0, logit_bias={3: 50.0}, top_logprobs=2), [], 0, None).choose(
        torch.tensor(LOGITS)
    )

    expected = torch.tensor(LOGITS).log_softmax(0)
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(float(expected[3]))
    assert [token for token, _ in chosen.top] == [0, 1]
