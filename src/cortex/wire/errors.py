"""Errors as HTTP: the only place where a CortexError becomes a status, headers and a body, and back."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cortex.core.errors import CortexError, ServiceError
from cortex.wire.json import encode

DONE = b"data: [DONE]\n\n"
_SECONDS = re.compile(r"[0-9]{1,9}")


class ErrorBody(msgspec.Struct, omit_defaults=False):
    """The inside of OpenAI's error envelope."""

    message: str = ""
    type: str = "server_error"
    code: str | int | None = None
    param: str | None = None


class Envelope(msgspec.Struct):
    """`{"error": {…}}`."""

    error: ErrorBody


_envelope = msgspec.json.Decoder(Envelope)


class RemoteError(ServiceError):
    """An error that another process of ours described; it keeps that process's status and code."""

    status: int  # type: ignore[misc]
    type: str  # type: ignore[misc]

    def __init__(self, status: int, body: ErrorBody, retry_after_seconds: int | None = None) -> None:
        super().__init__(body.message, retry_after_seconds=retry_after_seconds)
        self.status, self.type, self.param = status, body.type, body.param
        self.code = None if body.code is None else str(body.code)


def openai_body(error: CortexError) -> bytes:
    """Return *error* in OpenAI's envelope."""
    return encode(Envelope(ErrorBody(error.message, error.type, error.code, error.param)))


def openai_event(error: CortexError) -> bytes:
    """Return *error* as the last event of a chat stream: SDKs raise on it, and no `[DONE]` follows."""
    return b"data: " + openai_body(error) + b"\n\n"


def headers_of(error: CortexError) -> list[tuple[bytes, bytes]]:
    """Return the headers that tell a client whether and when to try again."""
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % min(max(error.retry_after_seconds, 1), 60)))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return headers


def error_from(status: int, body: bytes, retry_after: str | None = None) -> RemoteError:
    """Return the error that *body* describes, or a plain one with *status* if it is not our envelope."""
    seconds = int(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else None
    try:
        described = _envelope.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        described = ErrorBody(f"HTTP {status}", code="upstream_malformed_response")
    return RemoteError(status, described, seconds)


def as_json(error: CortexError) -> dict[str, Any]:
    """Return *error* as a plain value, for listings and logs."""
    return {"status": error.status, "code": error.code, "message": error.message}
