"""`GET /fleet/live`: all that the dashboard shows of the fleet, in one stream: first whole, then what has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Set
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cortex.core.errors import CortexError
from cortex.gateway.describing import describe_node
from cortex.wire.json import encode
from cortex.wire.sse import KEEP_ALIVE, data_event

if TYPE_CHECKING:
    from cortex.core.model_spec import ModelSpec
    from cortex.fleet.view import NodeView
    from cortex.gateway.app import CortexGateway
    from cortex.gateway.catalogue import Catalogue

# What happens within so long is told together.
STEP_SECONDS = 0.25
SILENCE_SECONDS = 1.0
# So many decisions of before one listens are told with the whole.
REMEMBERED = 100

Value = dict[str, Any]


async def serve_live(gateway: CortexGateway, request: Request) -> Response:
    """Return the stream. It ends with the gateway, and when the key that it was opened with is no longer one."""

    def may_listen() -> bool:
        try:
            gateway.access.enter(request.scope["headers"]).require("admin")
        except CortexError:
            return False
        return True

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_listen(gateway, may_listen), media_type="text/event-stream", headers=headers)


async def _listen(gateway: CortexGateway, may_listen: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    told, clock = Told(gateway), gateway.clock
    with gateway.feed.listener() as listener:
        yield data_event(encode(told.whole()))
        step, heard, allowed = clock(), clock(), clock()
        while not gateway.drain.begun:
            entry = await listener.next(max(0.0, step + STEP_SECONDS - clock()))
            now = clock()
            if entry is not None:
                yield data_event(encode(entry))
                heard = now
            if now - allowed >= SILENCE_SECONDS:
                allowed = now
                if not may_listen():
                    return
            if now - step >= STEP_SECONDS:
                step = now
                if (news := told.news()) is not None:
                    yield data_event(encode(news))
                    heard = now
                elif now - heard >= SILENCE_SECONDS:
                    yield KEEP_ALIVE
                    heard = now


class Told:
    """Owns what one listener has been told of the fleet, so that it hears of changes alone."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway
        self._seen: dict[str, tuple[NodeView, int]] = {}
        self._nodes: dict[str, Value] = {}
        self._catalogue: Catalogue | None = None
        self._models: list[Value] = []
        self._rest: Value = {}

    def whole(self) -> Value:
        """Return the whole fleet."""
        self._changed()
        self._rest = self._others()
        lately = self._gateway.feed.entries(limit=REMEMBERED)
        return {"kind": "fleet", "nodes": list(self._nodes.values()), "entries": lately, **self._rest}

    def news(self) -> Value | None:
        """Return what is new since the last call, None if nothing is."""
        nodes, removed = self._changed(), self._removed()
        rest = self._others()
        others = {key: value for key, value in rest.items() if self._rest.get(key) != value}
        self._rest = rest
        if not (nodes or removed or others):
            return None
        return {"kind": "changed", "nodes": nodes, "removed": removed, **others}

    def _changed(self) -> list[Value]:
        """Return the nodes that are not as they were told; of whom nothing was heard are not even looked at."""
        gateway, doors, now = self._gateway, self._gateway.steward.reconciler.doors, self._gateway.clock()
        flights: Counter[str] = Counter()
        for (node, _), count in doors.flights.items():
            flights[node] += count
        changed, readings = [], gateway.poller.readings
        for name, view in gateway.poller.view.by_name.items():
            seen = self._seen.get(name)
            if seen is not None and seen[0] is view and seen[1] == flights[name]:
                continue
            self._seen[name] = view, flights[name]
            told = describe_node(view, now, readings.get(name), doors)
            if _ageless(told) != _ageless(self._nodes.get(name, {})):
                changed.append(told)
            self._nodes[name] = told
        return changed

    def _removed(self) -> list[str]:
        removed = [name for name in self._nodes if name not in self._gateway.poller.view.by_name]
        for name in removed:
            del self._nodes[name], self._seen[name]
        return removed

    def _others(self) -> Value:
        """Return what is not a node's: the models, what waits and what is planned."""
        gateway, reconciler = self._gateway, self._gateway.steward.reconciler
        if self._catalogue is not gateway.catalogue:
            self._catalogue = gateway.catalogue
            self._models = [_model(spec, gateway.pins.models) for spec in gateway.catalogue.specs.values()]
        doors, commitments = reconciler.doors, reconciler.situation(gateway.clock()).commitments
        return {
            "models": self._models,
            "waiting": {model: len(doors.waiting(model)) for model in doors.waiting_since()},
            "plans": {node: [claim.model for claim in claims] for node, claims in commitments.items()},
            "refused_edits": dict(gateway.refused_edits),
        }


def _model(spec: ModelSpec, pinned_by_operator: Set[str]) -> Value:
    return {
        "id": spec.id,
        "aliases": list(spec.aliases),
        "engine": spec.engine_name,
        "context": spec.context,
        "priority": spec.priority,
        "pinned": spec.pinned,
        "unpinnable": spec.id in pinned_by_operator,
        "pinned_on": list(spec.pinned_on),
        "min_resident": spec.min_resident,
        "max_replicas": spec.max_replicas,
    }


def _ageless(told: Value) -> Value:
    return {key: value for key, value in told.items() if key != "seen_seconds_ago"}
