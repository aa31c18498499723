"""What the Starlette sides of gateway and neuron share: JSON answers, and errors in the envelope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cortex.core.errors import CortexError, MethodNotAllowed, RouteNotFound
from cortex.wire.errors import headers_of, openai_body
from cortex.wire.json import encode


def json_response(value: Any, status: int = 200) -> Response:
    """Return *value* as JSON."""
    return Response(encode(value), status_code=status, media_type="application/json")


def error_response(error: CortexError) -> Response:
    """Return *error* in OpenAI's envelope."""
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    return Response(openai_body(error), status_code=error.status, media_type="application/json", headers=headers)


def error_handlers() -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """Return how an application answers errors: ours by their kind, a wrong path or method by its name."""

    async def on_cortex_error(_: Request, error: CortexError) -> Response:
        return error_response(error)

    async def on_http_error(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 405:
            return error_response(MethodNotAllowed(f"{where}: this path is for another method"))
        return error_response(RouteNotFound(f"{where}: there is no such path"))

    return {CortexError: on_cortex_error, HTTPException: on_http_error}
