"""Errors as Anthropic says them: status, envelope, and the wording that its clients act on.

529 `overloaded_error` is for what only waiting cures: the fleet cannot take the request on now. A full queue stays 429
`rate_limit_error`, which clients retry for longer; what waiting does not cure stays 503 `api_error`.
"""

from __future__ import annotations

import re

from cortex.core.errors import CortexError
from cortex.wire import json
from cortex.wire.errors import ErrorBody, RemoteError

OVERLOADED = 529
_BUSY = frozenset({"no_healthy_node", "insufficient_memory", "model_not_ready", "shutting_down"})
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
# What an event of the hub's stream says in place of a status.
_STATUSES = {"invalid_request_error": 400, "rate_limit_error": 429, "timeout": 504}

# The wording of `core.errors.ContextLengthExceeded`, which has travelled as text.
_TOO_LONG = re.compile(
    r"maximum context length is (?P<maximum>\d+) tokens\. However, your messages resulted in (?P<tokens>\d+) tokens"
)


def status_of(error: CortexError) -> int:
    """Return the HTTP status of *error* on Anthropic's routes."""
    busy = error.status == 503 and error.code in _BUSY and error.should_retry is not False
    return OVERLOADED if busy else error.status


def type_of(error: CortexError) -> str:
    """Return Anthropic's type for *error*; in a stream it alone says what the status would."""
    status = status_of(error)
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def message_of(error: CortexError) -> str:
    """Return the message of *error*: on a prompt that is too long clients match Anthropic's own words."""
    if (found := _TOO_LONG.search(error.message)) is None:
        return error.message
    return f"prompt is too long: {found['tokens']} tokens > {found['maximum']} maximum"


def error_body(error: CortexError, request_id: str | None = None) -> bytes:
    """Return *error* in Anthropic's envelope, with *request_id* if it is known."""
    envelope = {"type": "error", "error": {"type": type_of(error), "message": message_of(error)}}
    return json.encode(envelope if request_id is None else {**envelope, "request_id": request_id})


def described(body: ErrorBody) -> RemoteError:
    """Return the error that an event of the hub's stream describes, with the status that it would have had."""
    busy = body.code in _BUSY
    return RemoteError(503 if busy else _STATUSES.get(body.type, 500), body)
