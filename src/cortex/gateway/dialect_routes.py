"""What a dialect has beside inference: token counts, stored responses, and refusals that its clients act on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import BadRequest, ModelNotFound, RouteNotFound, UpgradeRequired
from cortex.core.ids import is_model_id
from cortex.core.model_spec import ModelSpec
from cortex.gateway.access import caller_of
from cortex.gateway.control import Answer
from cortex.gateway.counting import count_without_load
from cortex.gateway.dialects import RESPONSES
from cortex.gateway.relay import TryElsewhere, refusal_of
from cortex.gateway.steward import WaitingRequest
from cortex.serving.application import json_body, json_response
from cortex.serving.exchange import Exchange
from cortex.wire.anthropic import Counting, count_tokens, describe_model, list_models
from cortex.wire.envelopes import MESSAGES
from cortex.wire.json import decode_any, encode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

COUNT_SECONDS = 60.0


class DialectRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(f"{MESSAGES}/count_tokens", self.count_tokens, methods=["POST"]),
            Route(f"{RESPONSES}/{{response_id}}", self.response),
            Route(f"{RESPONSES}/{{response_id}}", self.delete_response, methods=["DELETE"]),
        ]

    async def count_tokens(self, request: Request) -> Response:
        """`POST /v1/messages/count_tokens`: as the model's own tokenizer counts them.

        A cold model is loaded for it only where no node has its files yet.
        """
        counting = count_tokens(await json_body(request))
        spec = self._gateway.catalogue.find(counting.model)
        model = spec.id if spec is not None else counting.model
        names = (counting.model, model, *(spec.aliases if spec is not None else ()))
        with self._gateway.access.one_request(caller_of(request), names):
            return await self._count(counting, model, spec)

    async def _count(self, counting: Counting, model: str, spec: ModelSpec | None) -> Response:
        gateway = self._gateway
        if not is_model_id(model):
            raise ModelNotFound(model)
        fields = decode_any(counting.body)
        answer = await count_without_load(gateway.poller, gateway.control, model, spec, fields)
        if answer is None:
            answer = await self._count_with_load(model, encode({**fields, "model": model}))
        if answer.status != 200:
            refusal = refusal_of(answer.status, answer.headers, answer.body)
            raise refusal.error if isinstance(refusal, TryElsewhere) else refusal
        headers = {"x-cortex-ignored": ", ".join(counting.ignored)} if counting.ignored else None
        return Response(counting.answer(answer.body), media_type="application/json", headers=headers)

    async def _count_with_load(self, model: str, body: bytes) -> Answer:
        gateway = self._gateway
        choice = await gateway.steward.replica_for(WaitingRequest(model, time.monotonic()))
        try:
            address = gateway.poller.address(choice.replica.node)
            return await gateway.control.post(address, "/tokenize", body, COUNT_SECONDS)
        finally:
            gateway.steward.finished(choice.replica.spot)

    async def response(self, request: Request) -> Response:
        """`GET /v1/responses/{id}`: a response that was made with `store`, for as long as it is kept."""
        if request.query_params.get("stream") == "true":
            raise BadRequest("stream: a stored response is told whole", param="stream", code="unsupported_parameter")
        response_id = request.path_params["response_id"]
        found = self._gateway.responses.find(response_id, caller_of(request).id, time.time())
        if found is None:
            raise _no_response(response_id)
        return Response(bytes(found.response), media_type="application/json")

    async def delete_response(self, request: Request) -> Response:
        """`DELETE /v1/responses/{id}`: forget one."""
        response_id = request.path_params["response_id"]
        if not self._gateway.responses.delete(response_id, caller_of(request).id):
            raise _no_response(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})


def refuse_websocket(exchange: Exchange) -> None:
    """Raise UpgradeRequired at `GET /v1/responses`: a client that probes for a WebSocket goes on over HTTP, then.

    The path is of the data path, so that no route of the application ever sees it.
    """
    if exchange.path == RESPONSES and exchange.method == "GET":
        raise UpgradeRequired("responses are asked for with POST over HTTP; there is no WebSocket here")


def anthropic_models(entries: list[dict[str, object]], request: Request) -> Response:
    """Return the page of *entries* that a client of Anthropic's dialect asks for."""
    query = request.query_params
    asked = {name: query[name] for name in ("after_id", "before_id") if name in query}
    try:
        limit = msgspec.convert(query.get("limit", 20), int, strict=False)
    except msgspec.ValidationError:
        raise BadRequest("limit: expected a whole number", param="limit") from None
    return json_response(list_models(entries, **asked, limit=limit))


def anthropic_model(entry: dict[str, object]) -> Response:
    """Return *entry* of the listing as a client of Anthropic's dialect reads it."""
    return json_response(describe_model(entry))


def _no_response(response_id: str) -> RouteNotFound:
    return RouteNotFound(f"there is no response {response_id[:100]!r}; it was not stored, or not for so long")
