from __future__ import annotations

import json

import pytest

from cortex.core import errors
from cortex.core.errors import ContextLengthExceeded, CortexError
from cortex.wire.anthropic import error_body, status_of
from cortex.wire.anthropic.errors import described
from cortex.wire.errors import ErrorBody, RemoteError, error_from, openai_body

CASES: list[tuple[CortexError, int, str]] = [
    (errors.BadRequest("a"), 400, "invalid_request_error"),
    (errors.RequestTooSlow("a"), 408, "timeout_error"),
    (errors.PayloadTooLarge(5), 413, "request_too_large"),
    (errors.HeadersTooLarge("a"), 431, "invalid_request_error"),
    (errors.UnsupportedMediaType("a"), 415, "invalid_request_error"),
    (errors.RouteNotFound("a"), 404, "not_found_error"),
    (errors.ModelNotFound("m"), 404, "not_found_error"),
    (errors.MethodNotAllowed("a"), 405, "invalid_request_error"),
    (errors.Overloaded("a"), 429, "rate_limit_error"),
    (errors.NoHealthyNode("a"), 529, "overloaded_error"),
    (errors.InsufficientMemory("a"), 529, "overloaded_error"),
    (errors.ModelNotReady("a"), 529, "overloaded_error"),
    (errors.ShuttingDown("a"), 529, "overloaded_error"),
    (errors.InsufficientMemory("a", should_retry=False), 503, "api_error"),
    (errors.NoFeasibleNode("a"), 503, "api_error"),
    (errors.LoadFailed("a"), 503, "api_error"),
    (errors.EngineFailed("a"), 503, "api_error"),
    (errors.UpstreamFailed("a"), 502, "api_error"),
    (errors.UpstreamTimeout("a"), 504, "timeout_error"),
    (CortexError("a"), 500, "api_error"),
    (RemoteError(401, ErrorBody("a")), 401, "authentication_error"),
    (RemoteError(403, ErrorBody("a")), 403, "permission_error"),
    (RemoteError(409, ErrorBody("a")), 409, "conflict_error"),
    (RemoteError(503, ErrorBody("a", code="model_not_ready")), 529, "overloaded_error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), CASES, ids=lambda value: type(value).__name__)
def test_an_error_has_anthropics_status_and_type(error: CortexError, status: int, kind: str) -> None:
    assert status_of(error) == status
    assert json.loads(error_body(error, "req-1")) == {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": "req-1",
    }


def test_an_id_that_is_not_known_is_left_out() -> None:
    assert "request_id" not in json.loads(error_body(errors.BadRequest("a")))


def message(error: CortexError) -> str:
    value: str = json.loads(error_body(error))["error"]["message"]
    return value


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_match() -> None:
    """Also after it came from another process as text."""
    error = ContextLengthExceeded(9001, 4096)
    remote = error_from(400, openai_body(error))

    assert message(error) == message(remote) == "prompt is too long: 9001 tokens > 4096 maximum"
    assert status_of(remote) == 400


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (ErrorBody("a"), "api_error"),
        (ErrorBody("a", "invalid_request_error"), "invalid_request_error"),
        (ErrorBody("a", "rate_limit_error", "rate_limit_exceeded"), "rate_limit_error"),
        (ErrorBody("a", "timeout", "upstream_timeout"), "timeout_error"),
        (ErrorBody("a", "server_error", "shutting_down"), "overloaded_error"),
        (ErrorBody("a", "server_error", 500), "api_error"),
    ],
)
def test_an_error_in_a_stream_says_by_its_type_what_a_status_would(body: ErrorBody, kind: str) -> None:
    assert json.loads(error_body(described(body)))["error"]["type"] == kind
