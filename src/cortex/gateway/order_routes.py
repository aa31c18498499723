"""The operator's orders: load, unload, pin and drain, each of which can be asked what it would come to first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import Conflict, ModelNotFound
from cortex.core.model_spec import ModelSpec
from cortex.fleet.orders import Move, Unloading, drain_moves, load_plan, unloading
from cortex.fleet.plan import Plan
from cortex.fleet.situation import Situation
from cortex.fleet.work import describe_plan
from cortex.gateway.fleet_routes import INQUIRE_SECONDS
from cortex.serving.application import json_body, json_response
from cortex.wire.json import decode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway


class LoadOrder(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /fleet/load`: one more replica, on *node* or wherever it is cheapest.

    With *dry_run* the plan is told and nothing is done. *evicts* is what may go for it, as a plan said: if another
    would have to go by now, the order is refused.
    """

    model: str
    node: str | None = None
    dry_run: bool = False
    evicts: list[str] | None = None


class UnloadOrder(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /fleet/unload`: a replica ends what it has under way, and goes."""

    model: str
    node: str
    dry_run: bool = False


class PinOrder(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /fleet/pin`: whether a model may be evicted."""

    model: str
    pinned: bool = True


_load = msgspec.json.Decoder(LoadOrder)
_unload = msgspec.json.Decoder(UnloadOrder)
_pin = msgspec.json.Decoder(PinOrder)


class OrderRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/fleet/load", self.load, methods=["POST"]),
            Route("/fleet/unload", self.unload, methods=["POST"]),
            Route("/fleet/pin", self.pin, methods=["POST"]),
            Route("/fleet/nodes/{name}/drain", self.drain_plan),
        ]

    async def load(self, request: Request) -> Response:
        """`POST /fleet/load`. Raises ModelNotFound, RouteNotFound, Conflict."""
        order = decode(await json_body(request), _load)
        spec = self._spec(order.model)
        await self._gateway.steward.inquire(spec.id, INQUIRE_SECONDS)
        plan = load_plan(spec, order.node, self._situation())
        if not order.dry_run:
            _check_victims(order, plan)
            self._gateway.steward.reconciler.carry_out(plan, self._gateway.clock())
        return json_response({"done": not order.dry_run, "model": spec.id, "plan": describe_plan(plan)})

    async def unload(self, request: Request) -> Response:
        """`POST /fleet/unload`. Raises RouteNotFound, Conflict."""
        order = decode(await json_body(request), _unload)
        spec = self._gateway.catalogue.find(order.model)
        found = unloading(order.node, spec.id if spec is not None else order.model, self._situation())
        if not order.dry_run:
            self._gateway.steward.reconciler.unload(found.replica.spot, self._gateway.clock())
        return json_response({"done": not order.dry_run, **_described(found)})

    async def pin(self, request: Request) -> Response:
        """`POST /fleet/pin`. Raises ModelNotFound, BadRequest."""
        order = decode(await json_body(request), _pin)
        spec = self._spec(order.model)
        self._gateway.pin_model(spec.id, pinned=order.pinned)
        return json_response({"model": spec.id, "pinned": order.pinned})

    async def drain_plan(self, request: Request) -> Response:
        """`GET /fleet/nodes/{name}/drain`: what draining the node would come to. Raises RouteNotFound."""
        name = request.path_params["name"]
        moves = drain_moves(name, self._situation())
        return json_response({"node": name, "moves": [_told(move) for move in moves]})

    def _spec(self, name: str) -> ModelSpec:
        catalogue = self._gateway.catalogue
        spec = catalogue.find(name)
        if spec is None:
            raise ModelNotFound(name, catalogue.near(name))
        return spec

    def _situation(self) -> Situation:
        return self._gateway.steward.reconciler.situation(self._gateway.clock())


def _check_victims(order: LoadOrder, plan: Plan) -> None:
    """Raise Conflict if *plan* makes go what the order does not know of."""
    gone = {model for _, model in plan.victims}
    if order.evicts is not None and not gone <= set(order.evicts):
        others = ", ".join(sorted(gone - set(order.evicts)))
        raise Conflict(f"{others} would have to go as well by now: look at the plan again", code="plan_changed")


def _described(found: Unloading) -> dict[str, Any]:
    return {
        "model": found.replica.model,
        "node": found.replica.node,
        "under_way": found.under_way,
        "bytes_by_device": dict(found.replica.bytes_by_device),
        "ready_elsewhere": list(found.ready_elsewhere),
        "cautions": list(found.cautions),
    }


def _told(move: Move) -> dict[str, Any]:
    plan = describe_plan(move.plan) if move.plan is not None else None
    return {"model": move.model, "under_way": move.under_way, "to": move.to, "reason": move.reason, "plan": plan}
