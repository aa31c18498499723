"""What became of requests, and of minutes: `/traces` and `/fleet/history`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import BadRequest, RouteNotFound
from cortex.core.quantities import seconds_of
from cortex.gateway.trace.history import MINUTE_SECONDS, series
from cortex.gateway.trace.kept import Trace
from cortex.gateway.trace.store import Wanted
from cortex.gateway.trace.waterfall import spans
from cortex.serving.application import json_response

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

MAX_LISTED = 1000
_FLAGS = {"": True, "1": True, "true": True, "0": False, "false": False}
_SUMMARY = (
    *("id", "received", "seconds", "outcome", "status", "code", "key", "dialect", "model", "node", "stream"),
    *("wait_seconds", "first_token_at", "prompt_tokens", "completion_tokens", "finish_reason", "attempts"),
)


class TraceRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/traces", self.traces),
            Route("/traces/{request_id}", self.trace),
            Route("/fleet/history", self.history),
        ]

    async def traces(self, request: Request) -> Response:
        """`GET /traces?slow&failed&key=&model=&since=&limit=`: the last requests, or the slowest, first."""
        found = await self._gateway.keeper.search(_wanted(request.query_params, time.time()))
        return json_response({"object": "list", "data": [_summary(trace) for trace in found]})

    async def trace(self, request: Request) -> Response:
        """`GET /traces/{id}`: the story of one request; of several with that id, the last one."""
        request_id = request.path_params["request_id"]
        found = await self._gateway.keeper.find(request_id)
        if found is None:
            keep = self._gateway.config.trace.keep
            raise RouteNotFound(f"there is no trace of {request_id[:130]!r}; the last {keep} requests have one")
        return json_response(described(found))

    async def history(self, request: Request) -> Response:
        """`GET /fleet/history?since=`: figures of each minute, the oldest first."""
        now = time.time()
        since = _since(request.query_params.get("since"), now, default=now - 3600)
        minutes = await self._gateway.keeper.minutes(since - MINUTE_SECONDS)
        return json_response({"object": "list", "step_seconds": MINUTE_SECONDS, "data": series(minutes)})


def described(trace: Trace) -> dict[str, Any]:
    """Return all of *trace* with what follows from it: its spans, and how fast it was decoded."""
    told = {name: getattr(trace, name) for name in Trace.__struct_fields__}
    return msgspec.to_builtins({**told, "tokens_per_second": trace.tokens_per_second, "spans": spans(trace)})  # type: ignore[no-any-return]


def _summary(trace: Trace) -> dict[str, Any]:
    return {name: getattr(trace, name) for name in _SUMMARY} | {"loads": len(trace.loads)}


def _wanted(query: QueryParams, now: float) -> Wanted:
    limit = query.get("limit", "20")
    if not limit.isascii() or not limit.isdigit() or not 0 < int(limit[:9]) <= MAX_LISTED:
        raise BadRequest(f"limit = {limit[:50]!r}: expected a whole number from 1 to {MAX_LISTED}", param="limit")
    since = _since(query.get("since"), now, default=0.0)
    return Wanted(_flag(query, "slow"), _flag(query, "failed"), query.get("key"), query.get("model"), since, int(limit))


def _flag(query: QueryParams, name: str) -> bool:
    value = query.get(name)
    if value is None:
        return False
    if value not in _FLAGS:
        raise BadRequest(f"{name} = {value[:50]!r}: expected true or false", param=name)
    return _FLAGS[value]


def _since(text: str | None, now: float, *, default: float) -> float:
    """Return a moment, in seconds since 1970, which is told as that or as how long ago it was, such as `90s`."""
    if not text:
        return default
    try:
        return now - seconds_of(text) if text[-1].isalpha() else float(text)
    except ValueError:
        raise BadRequest(
            f"since = {text[:50]!r}: expected seconds since 1970, or how long ago, such as 90s or 2h", param="since"
        ) from None
