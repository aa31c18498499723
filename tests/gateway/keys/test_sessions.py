"""Sessions as such: how long they last, how many there may be, and what is read from a header."""

from __future__ import annotations

import pytest

from cortex.gateway.keys.sessions import COOKIE, LIFETIME_SECONDS, MAX_SESSIONS, Sessions

PAGE = (b"x-cortex-ui", b"1")


def shown(token: str) -> list[tuple[bytes, bytes]]:
    return [PAGE, (b"cookie", f"a=b; {COOKIE}={token}".encode())]


def test_a_session_lasts_for_its_time() -> None:
    sessions = Sessions()
    token = sessions.open(b"digest", 100.0)

    assert sessions.key_of(shown(token), 99.0 + LIFETIME_SECONDS) == b"digest"
    assert sessions.key_of(shown(token), 100.0 + LIFETIME_SECONDS) is None


def test_the_oldest_session_goes_when_there_are_too_many() -> None:
    sessions = Sessions()
    tokens = [sessions.open(b"digest", 0.0) for _ in range(MAX_SESSIONS + 1)]

    assert sessions.key_of(shown(tokens[0]), 1.0) is None
    assert sessions.key_of(shown(tokens[1]), 1.0) == b"digest"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [PAGE],
        [(b"cookie", b"cortex_session=TOKEN")],
        [PAGE, (b"cookie", b"cortex_session=")],
        [PAGE, (b"cookie", b"other=TOKEN")],
        [PAGE, (b"cookie", b"\xff=;;,= ")],
        [PAGE, (b"cookie", b"cortex_session=TOKENx")],
    ],
)
def test_what_is_not_a_session_of_ours_is_none(headers: list[tuple[bytes, bytes]]) -> None:
    sessions = Sessions()
    token = sessions.open(b"digest", 0.0).encode()
    told = [(name, value.replace(b"TOKEN", token)) for name, value in headers]

    assert sessions.key_of(told, 1.0) is None
