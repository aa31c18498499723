"""The response object: the same through created, in progress and done; only its state, output and usage change."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from cortex.core.errors import CortexError
from cortex.wire import json
from cortex.wire.errors import ErrorBody
from cortex.wire.hub_stream import HubUsage
from cortex.wire.responses.items import OutputItem

State = Literal["in_progress", "completed", "incomplete", "failed"]

# What ends an answer before it is whole, and what the dialect calls it.
CUT_BY = {"length": "max_output_tokens", "content_filter": "content_filter"}
_KEPT_CODES = frozenset({"context_length_exceeded", "rate_limit_exceeded", "invalid_image_url"})


class Failure(msgspec.Struct):
    """`response.error`. Clients decide by the code whether to try again."""

    code: str
    message: str


def failure_of(error: CortexError | ErrorBody) -> Failure:
    """Return *error* under the code that clients know it by: what may succeed later is a `server_error`."""
    if error.code in _KEPT_CODES:
        code = str(error.code)
    elif error.type == "rate_limit_error":
        code = "rate_limit_exceeded"
    else:
        code = "invalid_prompt" if error.type == "invalid_request_error" else "server_error"
    return Failure(code, error.message)


class Answer:
    """Writes the response object of one request; *shown* is what it repeats of the request."""

    def __init__(self, response_id: str, created_at: int, model: str, shown: dict[str, Any]) -> None:
        head = {"id": response_id, "object": "response", "created_at": created_at, "model": model, "background": False}
        self._head = json.encode({**head, **shown})[:-1]

    def write(
        self,
        state: State,
        output: list[OutputItem] | None = None,
        *,
        usage: HubUsage | None = None,
        cut_by: str | None = None,
        error: Failure | None = None,
    ) -> bytes:
        """Return the response in *state*; *cut_by* is the reason why it is incomplete."""
        changing = {
            "status": state,
            "output": output or [],
            "error": error,
            "incomplete_details": {"reason": cut_by} if cut_by else None,
            "usage": usage_object(usage) if usage is not None else None,
        }
        return b"%b,%b" % (self._head, json.encode(changing)[1:])


def usage_object(usage: HubUsage) -> dict[str, Any]:
    """Return *usage* as the dialect has it; what the hub does not tell apart is zero."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
