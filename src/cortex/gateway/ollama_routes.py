"""Ollama's lists of models, from the gateway's own; what would change them is refused: the catalogue is a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import BadRequest, ModelNotFound
from cortex.gateway.access import caller_of
from cortex.serving.application import json_response
from cortex.wire import ollama
from cortex.wire.json import encode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

LINES = "application/x-ndjson"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
NOT_OFFERED = ("/api/create", "/api/copy", "/api/delete", "/api/push", "/api/blobs/{digest}")


class OllamaRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/tags", self.tags),
            Route("/api/ps", self.running),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/pull", self.pull, methods=["POST"]),
            Route("/api/version", self.version),
            *(Route(path, self.refuse, methods=METHODS, include_in_schema=False) for path in NOT_OFFERED),
        ]

    async def tags(self, request: Request) -> Response:
        """`GET /api/tags`: what the caller may use."""
        return json_response(ollama.list_models(self._gateway.listed(caller_of(request))))

    async def running(self, request: Request) -> Response:
        """`GET /api/ps`: what of it is loaded."""
        return json_response(ollama.list_running(self._gateway.listed(caller_of(request))))

    async def show(self, request: Request) -> Response:
        """`POST /api/show`: one model. Ollama's clients do not always say that a body is JSON."""
        name = ollama.shown_model(await request.body())
        return json_response(ollama.show_model(self._gateway.described(name, caller_of(request))))

    async def pull(self, request: Request) -> Response:
        """`POST /api/pull`: nothing to do for a model that is served, since a node fetches it when it is asked."""
        name, in_lines = ollama.pulled_model(await request.body())
        try:
            self._gateway.described(name, caller_of(request))
        except ModelNotFound:
            raise ollama.cannot_pull(name) from None
        told = ollama.pulled()
        if not in_lines:
            return json_response(told[-1])
        return Response(b"".join(encode(each) + b"\n" for each in told), media_type=LINES)

    async def refuse(self, request: Request) -> Response:
        """Refuse by name what makes, copies, publishes or deletes models."""
        raise BadRequest(
            f"{request.url.path[:200]} is not offered: models are described in the gateway's catalogue, a file of its "
            "operator's",
            code="unsupported_operation",
        )

    async def version(self, _: Request) -> Response:
        """`GET /api/version`: that of the API which is spoken here."""
        return json_response(ollama.version())
