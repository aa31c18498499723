from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import (
    BadRequest,
    CortexError,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    NoHealthyNode,
    Overloaded,
    ServiceError,
)
from cortex.wire.errors import as_json, error_from, headers_of, openai_body, openai_event


def test_a_refusal_comes_in_the_envelope_of_openai() -> None:
    error = BadRequest("temperature: too hot", param="temperature", code="invalid_type")

    assert json.loads(openai_body(error)) == {
        "error": {
            "message": "temperature: too hot",
            "type": "invalid_request_error",
            "code": "invalid_type",
            "param": "temperature",
        }
    }


def test_what_is_not_known_is_null_and_not_absent() -> None:
    """Clients read `error.code` and `error.param` without looking whether they are there."""
    assert json.loads(openai_body(CortexError("boom")))["error"] == {
        "message": "boom",
        "type": "server_error",
        "code": None,
        "param": None,
    }


def test_an_error_in_a_stream_is_one_event() -> None:
    event = openai_event(ServiceError("line one\n\nline two"))

    assert event.startswith(b'data: {"error":')
    assert event.index(b"\n") == len(event) - 2


@pytest.mark.parametrize(
    ("seconds", "header"), [(-5, b"1"), (0, b"1"), (1, b"1"), (7, b"7"), (60, b"60"), (61, b"60"), (10**9, b"60")]
)
def test_a_client_is_sent_away_for_one_to_sixty_seconds(seconds: int, header: bytes) -> None:
    assert headers_of(ServiceError("x", retry_after_seconds=seconds)) == [(b"retry-after", header)]


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (BadRequest("x"), []),
        (ModelNotFound("x"), []),
        (Overloaded("x"), [(b"retry-after", b"2")]),
        (InsufficientMemory("x"), [(b"retry-after", b"30")]),
        (LoadFailed("x"), [(b"x-should-retry", b"false")]),
        (ServiceError("x", should_retry=True), [(b"x-should-retry", b"true")]),
        (NoHealthyNode("x", should_retry=False), [(b"retry-after", b"5"), (b"x-should-retry", b"false")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_headers_say_whether_and_when_to_retry(error: CortexError, headers: list[tuple[bytes, bytes]]) -> None:
    assert headers_of(error) == headers


@pytest.mark.parametrize(
    "error", [BadRequest("bad", param="n", code="c"), NoHealthyNode("gone"), ModelNotFound("x"), Overloaded("full")]
)
def test_an_error_of_another_process_keeps_its_face(error: CortexError) -> None:
    seconds = str(error.retry_after_seconds) if error.retry_after_seconds else None
    remote = error_from(error.status, openai_body(error), seconds)

    assert (remote.status, remote.type, remote.code, remote.param) == (
        error.status,
        error.type,
        error.code,
        error.param,
    )
    assert (remote.message, remote.retry_after_seconds) == (error.message, error.retry_after_seconds)
    assert openai_body(remote) == openai_body(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b"null",
        b"[]",
        b"{}",
        b'{"error":"text"}',
        b'{"error":{"message":5}}',
        b'{"error":{"message":"\xff"}}',
        b'{"error":{"message":null}}',
        b'{"error":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_garbage_still_makes_an_error_with_its_status(body: bytes) -> None:
    error = error_from(502, body)

    assert (error.status, error.code) == (502, "upstream_malformed_response")
    assert error.message == "HTTP 502"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5),
        ("0", 0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("²", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_only_whole_seconds_are_taken_from_a_retry_header(header: str | None, seconds: int | None) -> None:
    assert error_from(503, b"", header).retry_after_seconds == seconds


@settings(deadline=None)
@given(st.integers(400, 599), st.binary(max_size=40), st.none() | st.text(max_size=8))
def test_no_answer_of_a_node_breaks_the_reading_of_it(status: int, body: bytes, header: str | None) -> None:
    error = error_from(status, body, header)

    assert error.status == status
    assert json.loads(openai_body(error))["error"]["message"] == error.message


def test_a_code_that_is_a_number_becomes_text() -> None:
    assert error_from(429, b'{"error":{"message":"m","code":429}}').code == "429"


def test_a_listing_shows_status_code_and_message() -> None:
    assert as_json(Overloaded("full")) == {"status": 429, "code": "rate_limit_exceeded", "message": "full"}
