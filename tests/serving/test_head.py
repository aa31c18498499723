"""Heads that come again: known but for their length, and by nothing less."""

from __future__ import annotations

import pytest

from cortex.core.errors import UnsupportedMediaType
from cortex.serving.head import Head, known

HEADERS = [(b"host", b"h"), (b"x-a", b"1"), (b"x-a", b"2"), (b"content-length", b"2")]
HEAD = Head("POST", "/v1/echo", headers=HEADERS)
RAW = b"POST /v1/echo HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: %b\r\nX-B: b\r\n\r\n"


def body_in(data: bytes, head: Head = HEAD, first: bytes = RAW % b"2" + b"{}") -> bytes | None:
    """Return the body of *data* as a connection that had *first* before finds it."""
    again = known(head, first)
    return again.body_in(data) if again is not None else None


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 12_345])
def test_a_head_that_differs_in_its_length_alone_is_known(body: bytes) -> None:
    assert body_in(RAW % (b"%d" % len(body)) + body) == body


@pytest.mark.parametrize(
    "data",
    [
        RAW % b"3" + b"{}",
        RAW % b"1" + b"{}",
        RAW % b"" + b"{}",
        RAW % b"+2" + b"{}",
        RAW % b"0x2" + b"{}",
        RAW % b" 2" + b"{}",
        RAW % b"2, 2" + b"{}",
        RAW % b"9999999999999" + b"{}",
        RAW % b"2\r\nContent-Length: 2" + b"{}",
        RAW % b"2\r\nTransfer-Encoding: chunked" + b"{}",
        (RAW % b"2").replace(b"X-B: b", b"X-B: c") + b"{}",
        (RAW % b"2").replace(b"Host", b"host") + b"{}",
        (RAW % b"2")[:-1],
        (RAW % b"2")[:20],
        b"",
    ],
)
def test_whatever_else_differs_is_for_the_parser(data: bytes) -> None:
    assert body_in(data) is None


@pytest.mark.parametrize(
    ("head", "first"),
    [
        (Head("POST", "/", headers=HEADERS, keep_alive=False), RAW % b"2"),
        (Head("POST", "/", headers=HEADERS, http_11=False), RAW % b"2"),
        (Head("POST", "/", headers=[*HEADERS, (b"expect", b"100-continue")]), RAW % b"2"),
        (Head("POST", "/", headers=[*HEADERS, (b"upgrade", b"websocket")]), RAW % b"2"),
        (Head("GET", "/", headers=HEADERS[:3]), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (HEAD, RAW % (b"2\r\nX-Long: " + b"x" * 9000)),
    ],
)
def test_a_head_that_asks_for_more_than_an_answer_is_parsed_each_time(head: Head, first: bytes) -> None:
    assert known(head, first) is None


def test_of_repeated_headers_the_first_counts() -> None:
    assert HEAD.header(b"x-a") == b"1"
    assert HEAD.header(b"x-c") is None


@pytest.mark.parametrize(
    ("declared", "json"),
    [
        (None, True),
        (b"application/json", True),
        (b"Application/JSON; charset=UTF-8", True),
        (b"application/json; charset=latin-1", False),
        (b"text/plain", False),
        (b"", False),
    ],
)
def test_a_body_is_json_unless_it_is_said_to_be_something_else(declared: bytes | None, json: bool) -> None:
    head = Head("POST", "/", headers=[] if declared is None else [(b"content-type", declared)])
    try:
        head.require_json()
        accepted = True
    except UnsupportedMediaType:
        accepted = False

    assert accepted == json
