"""A `traceparent` is passed on if it is one, and ignored if it is not."""

from __future__ import annotations

import pytest

from cortex.wire.traceparent import parts, valid_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_one_is_passed_on_as_it_is() -> None:
    assert valid_traceparent(GOOD.encode()) == GOOD
    assert parts(GOOD) == (int(TRACE, 16), int(SPAN, 16), 1)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"",
        GOOD.upper().encode(),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{SPAN}-01-more".encode(),
        f"00-{TRACE}-{SPAN}-01\r\nx: y".encode(),
        f"00-{TRACE}-{SPAN}".encode(),
        b"00-" + b"a" * 9000,
    ],
)
def test_what_is_none_is_not_followed(bad: bytes | None) -> None:
    assert valid_traceparent(bad) is None


def test_of_a_later_version_what_is_known_is_passed_on() -> None:
    assert valid_traceparent(f"cc-{TRACE}-{SPAN}-ff-what-the-future-brings".encode()) == f"00-{TRACE}-{SPAN}-01"
