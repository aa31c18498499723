"""What engines died of anywhere is known to the gateway, and not tried on a third."""

from __future__ import annotations

import pytest

from cortex.core.errors import PoisonRequest
from cortex.gateway.dialects import Asked
from cortex.gateway.poison import Poison

POISON = Asked("m", False, "/v1/chat/completions", b'{"poison": true}')
FINE = Asked("m", False, "/v1/chat/completions", b"{}")


def test_two_engines_that_died_of_a_request_are_enough() -> None:
    poison = Poison()
    assert poison.deaths("m", POISON) == 0
    poison.note("m", POISON, "engine_failed")
    assert poison.deaths("m", POISON) == 1
    poison.note("m", POISON, "engine_failed")

    with pytest.raises(PoisonRequest):
        poison.deaths("m", POISON)
    assert poison.deaths("m", FINE) == 0


@pytest.mark.parametrize("code", ["model_not_ready", "rate_limit_exceeded", "upstream_timeout", None])
def test_other_failures_are_no_deaths(code: str | None) -> None:
    poison = Poison()
    poison.note("m", POISON, code)

    assert poison.deaths("m", POISON) == 0


def test_an_answer_clears_a_request() -> None:
    poison = Poison()
    poison.note("m", POISON, "engine_failed")
    poison.clear("m", POISON)

    assert poison.deaths("m", POISON) == 0


def test_a_request_is_the_same_streamed_or_not_and_in_any_order() -> None:
    poison = Poison()
    poison.note("m", Asked("m", True, POISON.path, b'{"stream":true,"poison":true,"x":[1, 2]}'), "engine_failed")

    assert poison.deaths("m", Asked("m", False, POISON.path, b'{"x": [1, 2],\n"poison":true}')) == 1
    assert poison.deaths("m", Asked("m", False, POISON.path, b'{"x":[1,3],"poison":true}')) == 0
