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
from cortex.gateway.dialects import RESPONSES
from cortex.gateway.inference import ANONYMOUS
from cortex.gateway.steward import WaitingRequest
from cortex.serving.application import json_body, json_response
from cortex.wire.anthropic import count_tokens, list_models
from cortex.wire.envelopes import MESSAGES
from cortex.wire.errors import error_from
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
            Route(RESPONSES, self.upgrade),
            Route(f"{RESPONSES}/{{response_id}}", self.response),
            Route(f"{RESPONSES}/{{response_id}}", self.delete_response, methods=["DELETE"]),
        ]

    async def count_tokens(self, request: Request) -> Response:
        """`POST /v1/messages/count_tokens`: as the model's own tokenizer counts them; a cold model is loaded for it."""
        counting = count_tokens(await json_body(request))
        gateway = self._gateway
        spec = gateway.catalogue.find(counting.model)
        model = spec.id if spec is not None else counting.model
        if not is_model_id(model):
            raise ModelNotFound(model)
        fields = decode_any(counting.body)
        body = encode({**fields, "model": model})
        choice = await gateway.steward.replica_for(WaitingRequest(model, time.monotonic()))
        try:
            address = gateway.poller.address(choice.replica.node)
            answer = await gateway.control.post(address, "/tokenize", body, COUNT_SECONDS)
        finally:
            gateway.steward.finished(choice.replica.spot)
        if answer.status != 200:
            raise error_from(answer.status, answer.body)
        return Response(counting.answer(answer.body), media_type="application/json")

    async def upgrade(self, _: Request) -> Response:
        """`GET /v1/responses`: a client that probes for a WebSocket goes on over HTTP when it hears 426."""
        raise UpgradeRequired("responses are asked for with POST over HTTP; there is no WebSocket here")

    async def response(self, request: Request) -> Response:
        """`GET /v1/responses/{id}`: a response that was made with `store`, for as long as it is kept."""
        response_id = request.path_params["response_id"]
        found = self._gateway.responses.find(response_id, ANONYMOUS, time.time())
        if found is None:
            raise _no_response(response_id)
        return Response(bytes(found.response), media_type="application/json")

    async def delete_response(self, request: Request) -> Response:
        """`DELETE /v1/responses/{id}`: forget one."""
        response_id = request.path_params["response_id"]
        if not self._gateway.responses.delete(response_id, ANONYMOUS):
            raise _no_response(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})


def anthropic_models(entries: list[dict[str, object]], request: Request) -> Response:
    """Return the page of *entries* that a client of Anthropic's dialect asks for."""
    query = request.query_params
    asked = {name: query[name] for name in ("after_id", "before_id") if name in query}
    try:
        limit = msgspec.convert(query.get("limit", 20), int, strict=False)
    except msgspec.ValidationError:
        raise BadRequest("limit: expected a whole number", param="limit") from None
    return json_response(list_models(entries, **asked, limit=limit))


def _no_response(response_id: str) -> RouteNotFound:
    return RouteNotFound(f"there is no response {response_id[:100]!r}; it was not stored, or not for so long")
