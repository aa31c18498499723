from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BudgetExceeded, PermissionDenied, RateLimited, ServiceError
from cortex.gateway.keys.caller import Caller
from cortex.gateway.keys.check import MAX_RESERVED_OUTPUT_TOKENS
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.ledger import Use
from cortex.gateway.keys.rates import Quota
from cortex.wire.engine_api import Usage

NOW = 1_800_000_000.0
QWEN = ("qwen",)


class Book:
    """What a ledger was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def record(self, key: str, prompt_tokens: int, completion_tokens: int, now: float) -> None:
        self.lines.append((key, prompt_tokens, completion_tokens))


def caller(history: Iterable[Use] = (), book: Book | None = None, **limits: object) -> Caller:
    made = Caller("ada", "inference", ledger=book)  # type: ignore[arg-type]
    made.limit(entry(**limits), history)
    return made


def entry(**limits: object) -> KeyEntry:
    return KeyEntry(name="ada", sha256="ab" * 32, **limits)  # type: ignore[arg-type]


def test_a_key_without_limits_is_let_in() -> None:
    ada = caller()
    for _ in range(1000):
        ada.admit(QWEN, 10**6, None, NOW)

    assert ada.in_flight == 1000
    assert (ada.standing(NOW).requests, ada.standing(NOW).tokens) == (None, None)


@pytest.mark.parametrize("names", [("fast", "org/qwen-7b", "fast"), ("org/qwen-7b", "org/qwen-7b", "fast")])
@pytest.mark.parametrize("models", [("fast",), ("org/*",), ("other", "*-7b")])
def test_a_model_is_allowed_by_any_of_its_names(names: tuple[str, ...], models: tuple[str, ...]) -> None:
    caller(models=models).admit(names, 1, 1, NOW)


def test_a_model_that_is_not_the_keys_is_a_403_that_tells_nothing_of_the_catalogue() -> None:
    """A 404 would have some clients ask again, in another form."""
    ada = caller(models=("qwen*",))

    with pytest.raises(PermissionDenied) as caught:
        ada.admit(("llama",), 1, 1, NOW)

    assert (caught.value.status, caught.value.code, caught.value.param) == (403, "model_not_allowed", "model")
    assert ada.in_flight == 0
    assert not ada.allows(("llama",))
    assert ada.allows(("llama", "qwen2"))


def test_an_inference_key_does_not_administer() -> None:
    with pytest.raises(PermissionDenied, match="scope admin"):
        caller().require("admin")

    caller().require("inference")
    caller(scope="admin").require("inference")


def test_requests_beyond_the_minutes_share_hear_when_to_come_back() -> None:
    ada = caller(requests_per_minute=2)
    ada.admit(QWEN, 1, 1, NOW)
    ada.admit(QWEN, 1, 1, NOW + 10)

    with pytest.raises(RateLimited, match="2 requests a minute; try again in 41 s") as caught:
        ada.admit(QWEN, 1, 1, NOW + 20)

    assert caught.value.retry_after_seconds == 41
    ada.admit(QWEN, 1, 1, NOW + 61)


def test_a_retry_is_never_more_than_a_minute_away() -> None:
    ada = caller(requests_per_minute=1)
    ada.admit(QWEN, 1, 1, NOW)

    with pytest.raises(RateLimited) as caught:
        ada.admit(QWEN, 1, 1, NOW)

    assert caught.value.retry_after_seconds == 60


def test_tokens_are_set_aside_while_a_request_is_under_way_and_paid_as_used() -> None:
    ada = caller(tokens_per_minute=1000)
    admission = ada.admit(QWEN, 300, 600, NOW)
    with pytest.raises(RateLimited, match="1000 tokens a minute"):
        ada.admit(QWEN, 100, 100, NOW)

    admission.settle(Usage(prompt_tokens=250, completion_tokens=50), NOW)

    assert ada.standing(NOW).tokens == Quota(1000, 700, NOW + 61)
    ada.admit(QWEN, 100, 100, NOW)


def test_what_is_under_way_at_once_is_limited() -> None:
    ada = caller(concurrency=2)
    first = ada.admit(QWEN, 1, 1, NOW)
    ada.admit(QWEN, 1, 1, NOW)
    with pytest.raises(RateLimited, match="2 requests under way, and may have 2"):
        ada.admit(QWEN, 1, 1, NOW)

    first.release(NOW)

    ada.admit(QWEN, 1, 1, NOW)


def test_a_spent_budget_names_the_time_when_there_is_room_again() -> None:
    noon = datetime(2027, 1, 15, 12, tzinfo=UTC).timestamp()
    ada = caller(budget_tokens=1000, budget_window="24h")
    ada.admit(QWEN, 1, 1, noon).settle(Usage(900, 50), noon)

    with pytest.raises(BudgetExceeded, match="50 of its 1000 tokens in 24 h left") as caught:
        ada.admit(QWEN, 100, 100, noon + 60)

    assert "2027-01-16T12:05:00Z" in caught.value.message
    assert (caught.value.retry_after_seconds, caught.value.should_retry) == (60, False)


def test_a_budget_that_only_requests_under_way_hold_is_worth_a_retry() -> None:
    ada = caller(budget_tokens=1000)
    ada.admit(QWEN, 900, 50, NOW)

    with pytest.raises(BudgetExceeded) as caught:
        ada.admit(QWEN, 100, 100, NOW)

    assert (caught.value.retry_after_seconds, caught.value.should_retry) == (2, None)


@pytest.mark.parametrize(
    "limits",
    [
        {"models": ("llama",)},
        {"concurrency": 1},
        {"requests_per_minute": 1},
        {"tokens_per_minute": 10},
        {"budget_tokens": 10},
    ],
)
def test_a_request_that_is_refused_uses_nothing(limits: dict[str, object]) -> None:
    generous: dict[str, object] = {"requests_per_minute": 9, "tokens_per_minute": 90, "budget_tokens": 90}
    ada = caller(**{**generous, **limits})
    if "models" not in limits:
        ada.admit(QWEN, 10, 0, NOW)
    before, under_way = ada.standing(NOW), ada.in_flight

    with pytest.raises((PermissionDenied, ServiceError)):
        ada.admit(QWEN, 10, 0, NOW)

    assert ada.standing(NOW) == before
    assert ada.in_flight == under_way


def test_who_hangs_up_pays_the_prompt_and_what_was_generated() -> None:
    book = Book()
    ada = caller(book=book, tokens_per_minute=1000)
    ada.admit(QWEN, 300, 600, NOW).settle(None, NOW, generated_tokens=40)
    ada.admit(QWEN, 0, 600, NOW).settle(None, NOW)

    quota = ada.standing(NOW).tokens
    assert quota is not None
    assert quota.remaining == 1000 - 341
    assert book.lines == [(ada.id, 300, 40), (ada.id, 1, 0)]


@pytest.mark.parametrize(
    ("usage", "paid"), [(Usage(-5, 10), (0, 10)), (Usage(10, -5), (10, 0)), (Usage(7, 8, cached_tokens=7), (7, 8))]
)
def test_what_is_paid_is_what_the_node_counted_and_never_less_than_nothing(usage: Usage, paid: tuple[int, int]) -> None:
    book = Book()
    ada = caller(book=book, tokens_per_minute=1000)
    ada.admit(QWEN, 300, 600, NOW).settle(usage, NOW)

    quota = ada.standing(NOW).tokens
    assert quota is not None
    assert quota.remaining == 1000 - sum(paid)
    assert book.lines == [(ada.id, *paid)]


def test_a_request_that_no_replica_began_costs_no_tokens() -> None:
    book = Book()
    ada = caller(book=book, tokens_per_minute=1000, requests_per_minute=10)
    ada.admit(QWEN, 300, 600, NOW).release(NOW)

    standing = ada.standing(NOW)
    assert standing.tokens == Quota(1000, 1000, NOW)
    assert standing.requests == Quota(10, 9, NOW + 61)
    assert (ada.in_flight, book.lines) == (0, [])


def test_a_request_is_paid_once() -> None:
    book = Book()
    ada = caller(book=book, tokens_per_minute=1000)
    admission = ada.admit(QWEN, 10, 10, NOW)
    admission.settle(Usage(10, 10), NOW)
    admission.settle(Usage(10, 10), NOW)
    admission.release(NOW)

    assert ada.in_flight == 0
    assert book.lines == [(ada.id, 10, 10)]


def test_the_tokens_told_are_those_of_the_limit_with_the_least_left() -> None:
    ada = caller(tokens_per_minute=100, budget_tokens=150)
    ada.admit(QWEN, 1, 1, NOW).settle(Usage(90, 0), NOW)
    by_minute = ada.standing(NOW).tokens
    by_budget = ada.standing(NOW + 120).tokens

    assert by_minute is not None
    assert by_budget is not None
    assert (by_minute.limit, by_minute.remaining) == (100, 10)
    assert (by_budget.limit, by_budget.remaining) == (150, 60)


def test_limits_change_under_requests_under_way() -> None:
    ada = caller(tokens_per_minute=1000, budget_tokens=5000)
    admission = ada.admit(QWEN, 400, 400, NOW)
    ada.limit(entry(tokens_per_minute=2000, budget_tokens=5000, budget_window="1h"), [])
    admission.settle(Usage(100, 100), NOW)

    by_minute = ada.standing(NOW).tokens
    assert by_minute == Quota(2000, 1800, NOW + 61)

    ada.limit(entry(budget_tokens=5000, budget_window="1h"), [])
    by_budget = ada.standing(NOW).tokens
    assert by_budget is not None
    assert by_budget.remaining == 4800


def test_a_limit_that_is_taken_back_and_set_again_owes_nothing_twice() -> None:
    ada = caller(tokens_per_minute=1000)
    admission = ada.admit(QWEN, 400, 400, NOW)
    ada.limit(entry(), [])
    ada.limit(entry(tokens_per_minute=1000), [])
    admission.settle(Usage(0, 0), NOW)

    assert ada.standing(NOW).tokens == Quota(1000, 1000, NOW)


def test_a_budget_goes_on_where_its_history_ends() -> None:
    minute = int(NOW)
    history = [Use("x", minute - 90_000, 1, 500, 0), Use("x", minute - 7200, 1, 300, 100), Use("x", minute, 1, 50, 50)]

    quota = caller(history, budget_tokens=1000, budget_window="24h").standing(NOW).tokens

    assert quota is not None
    assert quota.remaining == 500


def test_a_budget_over_another_window_begins_with_what_was_used_in_that_one() -> None:
    minute = int(NOW)
    ada = caller(budget_tokens=1000, budget_window="1h")
    ada.admit(QWEN, 1, 1, NOW).settle(Usage(100, 0), NOW)

    ada.limit(
        entry(budget_tokens=1000, budget_window="24h"),
        [Use("x", minute - 7200, 1, 300, 0), Use("x", minute, 1, 100, 0)],
    )

    quota = ada.standing(NOW).tokens
    assert quota is not None
    assert quota.remaining == 600


TOKENS = st.integers(-10, 20_000)


@given(
    st.lists(
        st.tuples(st.floats(0, 90, allow_nan=False), TOKENS, st.none() | TOKENS, st.none() | st.tuples(TOKENS, TOKENS)),
        max_size=40,
    )
)
def test_whatever_requests_do_nothing_becomes_negative_and_all_comes_back(
    requests: list[tuple[float, int, int | None, tuple[int, int] | None]],
) -> None:
    book, now = Book(), NOW
    ada = caller(book=book, tokens_per_minute=30_000, requests_per_minute=20, budget_tokens=100_000, concurrency=3)
    under_way, waits = [], []
    for step, prompt, wanted, used in requests:
        now += step
        try:
            under_way.append((ada.admit(QWEN, prompt, wanted, now), used))
        except ServiceError as error:
            waits.append(error.retry_after_seconds or 0)
        if len(under_way) > 2:
            admission, counts = under_way.pop(0)
            admission.settle(Usage(*counts) if counts is not None else None, now, generated_tokens=wanted or 0)
        standing = ada.standing(now)
        assert standing.requests is not None
        assert standing.tokens is not None
        assert 0 <= standing.tokens.remaining <= standing.tokens.limit
        assert 0 <= standing.requests.remaining <= 20
        assert ada.in_flight == len(under_way)
    for admission, _ in under_way:
        admission.release(now)

    assert all(1 <= seconds <= 60 for seconds in waits)
    assert all(prompt >= 0 and completion >= 0 and prompt + completion for _, prompt, completion in book.lines)
    later = ada.standing(now + 90_000)
    assert later.tokens == Quota(30_000, 30_000, now + 90_000)
    assert ada.in_flight == 0


def test_an_agent_that_asks_for_much_may_run_several_at_once() -> None:
    ada = caller(tokens_per_minute=100_000)
    for _ in range(4):
        ada.admit(QWEN, 10_000, 32_000, NOW)

    quota = ada.standing(NOW).tokens
    assert quota is not None
    assert quota.remaining == 100_000 - 4 * (10_000 + MAX_RESERVED_OUTPUT_TOKENS)
