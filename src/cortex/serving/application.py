"""What the Starlette sides of gateway and neuron share: JSON answers, and errors in their envelopes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cortex.core.errors import CortexError, MethodNotAllowed, RouteNotFound, UnsupportedMediaType
from cortex.wire.envelopes import answer_of
from cortex.wire.json import encode


def json_response(value: Any, status: int = 200) -> Response:
    """Return *value* as JSON."""
    return Response(encode(value), status_code=status, media_type="application/json")


def error_response(error: CortexError, request: Request) -> Response:
    """Return *error* in the envelope of the dialect that *request*'s path speaks."""
    status, body, told = answer_of(error, request.url.path, request.headers.get("x-request-id", ""))
    headers = {name.decode(): value.decode() for name, value in told}
    return Response(body, status_code=status, media_type="application/json", headers=headers)


async def json_body(request: Request) -> bytes:
    """Return the body. Raises UnsupportedMediaType unless it is declared as JSON: no browser sends that unasked."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("content-type: expected application/json")
    return await request.body()


def error_handlers() -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """Return how an application answers errors: ours by their kind, a wrong path or method by its name."""

    async def on_cortex_error(request: Request, error: CortexError) -> Response:
        return error_response(error, request)

    async def on_http_error(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 405:
            return error_response(MethodNotAllowed(f"{where}: this path is for another method"), request)
        return error_response(RouteNotFound(f"{where}: there is no such path"), request)

    return {CortexError: on_cortex_error, HTTPException: on_http_error}
