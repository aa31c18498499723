from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import ConfigError
from cortex.wire.node_auth import authorization, check_token, is_authorized

TOKEN = "correct-horse-battery"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16))
def test_who_shows_the_token_is_let_in(token: str) -> None:
    assert check_token(token, "node_token") == token
    assert is_authorized(authorization(token), token)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Bearer correct-horse-batter",
        b"Bearer correct-horse-battery2",
        b"Basic correct-horse-battery",
        b"correct-horse-battery",
        b"Bearer \xff\x00",
    ],
)
def test_who_does_not_is_kept_out(header: bytes | None) -> None:
    assert not is_authorized(header, TOKEN)


@pytest.mark.parametrize("header", [b"bearer correct-horse-battery", b"Bearer  correct-horse-battery "])
def test_spelling_of_the_scheme_and_spaces_do_not_matter(header: bytes) -> None:
    assert is_authorized(header, TOKEN)


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer "])
def test_an_empty_token_lets_nobody_in(header: bytes | None) -> None:
    assert not is_authorized(header, "")


@pytest.mark.parametrize(
    "token", ["", "short-canary", "canary with a space in it", "canary-canary-canary\n", "canary-canary-canaré"]
)
def test_a_token_that_cannot_be_sent_or_can_be_guessed_stops_the_start(token: str) -> None:
    with pytest.raises(ConfigError, match=r"^neuron\.token: ") as caught:
        check_token(token, "neuron.token")

    assert "canary" not in caught.value.message
