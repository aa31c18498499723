"""Ollama's lists of models, from the gateway's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.gateway.access import caller_of
from cortex.serving.application import json_response
from cortex.wire import ollama

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway


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
            Route("/api/version", self.version),
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

    async def version(self, _: Request) -> Response:
        """`GET /api/version`: that of the API which is spoken here."""
        return json_response(ollama.version())
