"""Names that come from outside, and what makes one safe to use in a path, a header or a log."""

from __future__ import annotations

import re
import secrets
from itertools import count

from cortex.core.errors import BadRequest

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,3}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

MODEL_ID_MAX_CHARS = 200

# Unique without asking the system for randomness at each request.
_PROCESS, _requests = secrets.token_hex(8), count(1)


def is_model_id(text: str) -> bool:
    """Whether *text* is a model id: up to four path-like segments, none of which can climb or be hidden."""
    return len(text) <= MODEL_ID_MAX_CHARS and _MODEL_ID.fullmatch(text) is not None and ".." not in text


def check_model_id(text: str, *, param: str = "model") -> str:
    """Return *text* if it is a model id; else raise BadRequest naming *param*."""
    if not is_model_id(text):
        raise BadRequest(
            f"{text[:60]!r} is not a model id: letters, digits and . _ : @ + - in segments separated by '/', "
            f"at most {MODEL_ID_MAX_CHARS} characters",
            param=param,
        )
    return text


def new_request_id() -> str:
    """Return a fresh id that correlates one request across client, gateway, node and engine."""
    return f"req-{_PROCESS}{next(_requests):08x}"


def request_id_from(offered: str | None) -> str:
    """Return the client's own `x-request-id` if it is safe to log and forward, else a fresh one."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else new_request_id()
