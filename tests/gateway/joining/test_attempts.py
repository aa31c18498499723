from __future__ import annotations

import pytest

from cortex.core.errors import RateLimited
from cortex.gateway.joining.attempts import MOST_OF_ALL, MOST_OF_ONE, WINDOW_SECONDS, Attempts


def test_who_fails_too_often_is_refused_for_a_while_and_others_are_not() -> None:
    attempts = Attempts()
    for _ in range(MOST_OF_ONE):
        attempts.check("10.0.0.9", 100.0)
        attempts.failed("10.0.0.9", 100.0)

    attempts.check("10.0.0.2", 100.0)
    with pytest.raises(RateLimited) as caught:
        attempts.check("10.0.0.9", 130.0)
    attempts.check("10.0.0.9", 100.0 + WINDOW_SECONDS)

    assert caught.value.retry_after_seconds == 30


def test_many_who_fail_a_little_are_bounded_together() -> None:
    attempts = Attempts()
    for number in range(MOST_OF_ALL):
        attempts.failed(f"10.0.0.{number}", 0.0)

    with pytest.raises(RateLimited):
        attempts.check("10.9.9.9", 1.0)
