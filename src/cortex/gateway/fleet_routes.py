"""The operator's API: how the fleet is, what it would do and did, and which nodes belong to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cortex.core.errors import BadRequest, ModelNotFound
from cortex.fleet.explaining import explain_model
from cortex.gateway.describing import describe_node
from cortex.gateway.web.live import serve_live
from cortex.serving.application import json_body, json_response
from cortex.wire.json import decode, encode
from cortex.wire.sse import KEEP_ALIVE, data_event

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

MAX_ENTRIES = 5000
SILENCE_SECONDS = 1.0
# An explanation waits for what the nodes say of a model's need, but not for one that does not answer.
INQUIRE_SECONDS = 3.0


class NewNode(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /fleet/nodes`."""

    name: str
    endpoint: str


_new_node = msgspec.json.Decoder(NewNode)


class FleetRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/fleet", self.fleet),
            Route("/fleet/explain/{model:path}", self.explain),
            Route("/fleet/decisions", self.decisions),
            Route("/fleet/events", self.events),
            Route("/fleet/live", self.live),
            Route("/fleet/nodes", self.add_node, methods=["POST"]),
            Route("/fleet/nodes/{name}", self.remove_node, methods=["DELETE"]),
            Route("/fleet/nodes/{name}/drain", self.drain_node, methods=["POST"]),
            Route("/fleet/nodes/{name}/undrain", self.undrain_node, methods=["POST"]),
        ]

    async def fleet(self, _: Request) -> Response:
        """`GET /fleet`: every node with its devices and replicas, and what waits or is under way."""
        gateway, reconciler = self._gateway, self._gateway.steward.reconciler
        situation, doors = reconciler.situation(gateway.clock()), reconciler.doors
        readings = gateway.poller.readings
        fleet = {
            "nodes": [
                describe_node(node, situation.now, readings.get(node.name), doors) for node in situation.view.nodes
            ],
            "waiting": {model: len(doors.waiting(model)) for model in doors.waiting_since()},
            "plans": {node: [claim.model for claim in claims] for node, claims in situation.commitments.items()},
            "refused_edits": dict(gateway.refused_edits),
        }
        return json_response(fleet)

    async def explain(self, request: Request) -> Response:
        """`GET /fleet/explain/{model}`: what would happen to a request for it now, and why."""
        gateway, name = self._gateway, request.path_params["model"]
        spec = gateway.catalogue.find(name)
        model, view = spec.id if spec is not None else name, gateway.poller.view
        if spec is None and model not in view.models:
            raise ModelNotFound(model, gateway.catalogue.near(model, view.models))
        await gateway.steward.inquire(model, INQUIRE_SECONDS)
        reconciler = gateway.steward.reconciler
        situation = reconciler.situation(gateway.clock())
        explained = explain_model(model, situation, reconciler.doors, reconciler.job(model))
        return json_response({**explained, "last": gateway.feed.entries(model=model, limit=10)})

    async def decisions(self, request: Request) -> Response:
        """`GET /fleet/decisions?model=&after=&limit=`: what was decided, and what came of it, oldest first."""
        query = request.query_params
        entries = self._gateway.feed.entries(
            after=_whole(query.get("after"), "after", 0),
            model=query.get("model"),
            limit=min(_whole(query.get("limit"), "limit", 100), MAX_ENTRIES),
        )
        return json_response({"object": "list", "data": entries})

    async def events(self, request: Request) -> Response:
        """`GET /fleet/events?after=`: the same as events, for as long as one listens; requests are among them."""
        after = request.query_params.get("after")
        past = _whole(after, "after", 0) if after is not None else None
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(self._listen(past), media_type="text/event-stream", headers=headers)

    async def _listen(self, after: int | None) -> AsyncGenerator[bytes, None]:
        yield KEEP_ALIVE
        with self._gateway.feed.listener(after) as listener:
            while not self._gateway.drain.begun:
                entry = await listener.next(SILENCE_SECONDS)
                yield KEEP_ALIVE if entry is None else data_event(encode(entry))

    async def live(self, request: Request) -> Response:
        """`GET /fleet/live`: the fleet, then its changes and events: what the dashboard listens to."""
        return await serve_live(self._gateway, request)

    async def add_node(self, request: Request) -> Response:
        """`POST /fleet/nodes` with name and endpoint: one more node, kept over restarts."""
        asked = decode(await json_body(request), _new_node)
        node = self._gateway.add_node(asked.name, asked.endpoint)
        return json_response({"name": node.name, "endpoint": node.endpoint}, status=201)

    async def remove_node(self, request: Request) -> Response:
        """`DELETE /fleet/nodes/{name}`: forget a node that was added."""
        self._gateway.remove_node(request.path_params["name"])
        return json_response({"name": request.path_params["name"], "removed": True})

    async def drain_node(self, request: Request) -> Response:
        """`POST /fleet/nodes/{name}/drain`: no new work, and its models move elsewhere."""
        return self._drain(request.path_params["name"], drained=True)

    async def undrain_node(self, request: Request) -> Response:
        """`POST /fleet/nodes/{name}/undrain`: back into service."""
        return self._drain(request.path_params["name"], drained=False)

    def _drain(self, name: str, *, drained: bool) -> Response:
        gateway = self._gateway
        gateway.drain_node(name, drained=drained)
        health, doors = gateway.poller.readings.get(name), gateway.steward.reconciler.doors
        return json_response(describe_node(gateway.poller.view.node(name), gateway.clock(), health, doors))


def _whole(text: str | None, key: str, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise BadRequest(f"{key} = {text[:50]!r}: expected a whole number", param=key)
    return int(text)
