"""Run the fleet: bring what happens to the reconciler, and have done what it decides. Owns the tasks that do it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from cortex.core.errors import CortexError, UpstreamFailed, UpstreamTimeout
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.doors import Ticket
from cortex.fleet.plan import Plan
from cortex.fleet.reconciler import Reconciler
from cortex.fleet.route import Choice
from cortex.fleet.situation import UNKNOWN, Need, Policy
from cortex.fleet.view import Spot
from cortex.fleet.work import Event
from cortex.gateway.control import Answer, Control
from cortex.gateway.feed import Feed
from cortex.gateway.metrics import Metrics
from cortex.gateway.poller import Poller
from cortex.gateway.trace.keeper import Keeper
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.errors import error_from
from cortex.wire.json import decode, encode
from cortex.wire.node_api import EstimateAnswer, LoadAnswer, LoadRequest, LoadStage, UnloadRequest

log = get_logger(__name__)

TICK_SECONDS = 0.5
INQUIRE_SECONDS = 0.02
ESTIMATE_SECONDS = 30.0
ESTIMATES_AT_ONCE = 16

_estimate = msgspec.json.Decoder(EstimateAnswer)
_loaded = msgspec.json.Decoder(LoadAnswer)
_UNLOGGED = frozenset({"stages"})
_WARNINGS = frozenset({"load_failed", "unload_failed", "plan_dropped", "refused"})


@dataclass(eq=False, slots=True)
class WaitingRequest(Ticket):
    """A ticket whose request waits here."""

    turn: asyncio.Future[Choice] = field(init=False)


class Steward:
    """The reconciler's `Effects`, and the way to it for requests, the poller and the operator."""

    def __init__(
        self,
        catalogue: Mapping[str, ModelSpec],
        policy: Policy,
        poller: Poller,
        control: Control,
        metrics: Metrics,
        keeper: Keeper,
        feed: Feed,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reconciler = Reconciler(self, catalogue, policy)
        self._poller, self._control, self._clock = poller, control, clock
        self._metrics, self._keeper, self._feed = metrics, keeper, feed
        self._tasks: TaskGroup
        self._looking: dict[str, bool] = {}
        self._stages: dict[Spot, list[LoadStage]] = {}
        self._estimates = anyio.Semaphore(ESTIMATES_AT_ONCE)

    # life -------------------------------------------------------------------------------------------------------------

    def start(self, tasks: TaskGroup) -> None:
        """Begin to act, in *tasks*."""
        self._tasks = tasks
        tasks.start_soon(self._tick_forever, name="steward")

    async def _tick_forever(self) -> None:
        while True:
            self.reconciler.tick(self._clock())
            await anyio.sleep(TICK_SECONDS)

    def changed(self, node: str) -> None:
        """Tell the reconciler what the poller has learned of *node*."""
        self.reconciler.view_changed(self._poller.view, node, self._clock())

    # requests ---------------------------------------------------------------------------------------------------------

    def at_once(self, ticket: WaitingRequest) -> Choice | None:
        """Return the replica that serves *ticket* if one is free and nobody waits for it; `finished` must follow."""
        return self.reconciler.at_once(ticket, self._clock())

    async def replica_for(self, ticket: WaitingRequest) -> Choice:
        """Return the replica that serves *ticket*, once there is one. Raises what refuses it; cancelling leaves.

        Whoever gets a choice must tell `finished` when its request is over.
        """
        ticket.turn = asyncio.get_running_loop().create_future()
        choice = self.reconciler.ask(ticket, self._clock())
        if choice is not None:
            return choice
        try:
            return await ticket.turn
        except asyncio.CancelledError:
            self._leave(ticket)
            raise

    def _leave(self, ticket: WaitingRequest) -> None:
        """Take a request out whose client left, be it in the very turn of the loop in which it was served."""
        self.reconciler.leave(ticket)
        turn = ticket.turn
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.finished(turn.result().replica.spot)

    def finished(self, spot: Spot, usage: Usage | None = None, timings: Timings | None = None) -> None:
        """Take note that a request at *spot* is over."""
        self.reconciler.finished(spot, self._clock(), usage, timings)

    def let_go(self, model: str) -> None:
        """Unload *model* wherever nobody uses it and nothing keeps it: a client has said that it is done with it."""
        self.reconciler.let_go(model, "a client let go of it", self._clock())

    def comment(self, ticket: Ticket) -> str:
        """Return what *ticket* waits for."""
        return self.reconciler.comment(ticket, self._clock())

    async def look_at(self, node: str) -> bool:
        """Ask *node* how it is, now; return whether it answered and is well."""
        asked = self._clock()
        await self._poller.look(node)
        self.changed(node)
        view = self._poller.view.by_name.get(node)
        return view is not None and view.healthy and view.seen_at >= asked

    async def inquire(self, model: str, seconds: float) -> None:
        """Have it known what *model* takes on every node, if that can be had within so many *seconds*."""
        with anyio.move_on_after(seconds):
            while self.reconciler.inquires(model):
                await anyio.sleep(INQUIRE_SECONDS)

    # effects ----------------------------------------------------------------------------------------------------------

    def serve(self, ticket: Ticket, choice: Choice) -> None:
        """Wake the request."""
        assert isinstance(ticket, WaitingRequest)
        if not ticket.turn.done():
            ticket.turn.set_result(choice)
        else:  # its client left in this very turn of the loop
            self._tasks.start_soon(self._give_back, choice.replica.spot)

    async def _give_back(self, spot: Spot) -> None:
        self.finished(spot)

    def refuse(self, ticket: Ticket, error: CortexError) -> None:
        """Wake the request with an error."""
        assert isinstance(ticket, WaitingRequest)
        if not ticket.turn.done():
            ticket.turn.set_exception(error)

    def load(self, spec: ModelSpec, plan: Plan) -> None:
        """Have a node load."""
        self._tasks.start_soon(self._load, spec, plan, name=f"load:{spec.id}@{plan.node}")

    def unload(self, spot: Spot) -> None:
        """Have a node drain and unload."""
        self._tasks.start_soon(self._unload, spot, name=f"unload:{spot[1]}@{spot[0]}")

    def look(self, node: str) -> None:
        """Ask a node how it is; a wish that comes while it is being asked is one more look after that."""
        if node in self._looking:
            self._looking[node] = True
            return
        self._looking[node] = False
        self._tasks.start_soon(self._look, node, name=f"look:{node}")

    def estimate(self, spec: ModelSpec, node: str) -> None:
        """Ask a node what a model takes there."""
        self._tasks.start_soon(self._ask_estimate, spec, node, name=f"estimate:{spec.id}@{node}")

    def note(self, event: Event) -> None:
        """Write it to the log and the feed, count it, and keep it for the requests that wait for it."""
        if event.kind == "load_finished":
            stages = [{"stage": s.stage, "seconds": s.seconds} for s in self._stages.get((event.node, event.model), ())]
            event = replace(event, details={**event.details, "stages": stages})
        tell = log.warning if event.kind in _WARNINGS else log.info
        details = {key: value for key, value in event.details.items() if key not in _UNLOGGED}
        where = {"node": event.node} if event.node else {}
        tell(event.kind, model=event.model, **where, reason=event.reason, **details)
        keys: dict[str, Any] = {"model": event.model, "node": event.node, "reason": event.reason}
        self._feed.publish(time.time(), event.kind, **keys, **event.details)
        self._metrics.decided(event)
        self._keeper.decided(event, time.perf_counter())

    async def _load(self, spec: ModelSpec, plan: Plan) -> None:
        asked, spot = load_request(spec, () if plan.blind else plan.devices), (plan.node, spec.id)
        answer = await self._order(plan.node, "/models/load", encode(asked))
        if isinstance(answer, Answer):
            self._stages[spot] = stages_of(answer.body)
        self.reconciler.loaded(spot, answer if isinstance(answer, CortexError) else None, self._clock())
        self._stages.pop(spot, None)

    async def _unload(self, spot: Spot) -> None:
        answer = await self._order(spot[0], "/models/unload", encode(UnloadRequest(model_id=spot[1])))
        error = answer if isinstance(answer, CortexError) and answer.code != "model_not_found" else None
        self.reconciler.unloaded(spot, error, self._clock())

    async def _look(self, node: str) -> None:
        while True:
            self._looking[node] = False
            await self._poller.look(node)
            self.changed(node)
            if not self._looking[node]:
                break
        del self._looking[node]
        self.reconciler.looked(node, self._clock())

    async def _ask_estimate(self, spec: ModelSpec, node: str) -> None:
        need = UNKNOWN
        try:
            async with self._estimates:
                answer = await self._post(node, "/models/estimate", encode(load_request(spec)), ESTIMATE_SECONDS)
            if answer.status == 200:
                need = need_of(decode(answer.body, _estimate))
        except (CortexError, KeyError) as error:
            log.debug("estimate_failed", model=spec.id, node=node, error=str(error))
        self.reconciler.estimated(spec, node, need, self._clock())

    async def _order(self, node: str, path: str, body: bytes) -> Answer | CortexError:
        """Have *node* do something that takes as long as it takes; return its answer, or what went wrong."""
        try:
            answer = await self._post(node, path, body, None)
        except (UpstreamFailed, UpstreamTimeout) as lost:
            return UpstreamFailed(f"node {node} was lost at {path}: {lost}")
        except KeyError:
            return UpstreamFailed(f"node {node} was removed")
        if answer.status < 300:
            return answer
        error = error_from(answer.status, answer.body, answer.headers.get(b"retry-after", b"").decode("latin-1"))
        if b"x-should-retry" in answer.headers:
            error.should_retry = answer.headers[b"x-should-retry"] == b"true"
        return error

    async def _post(self, node: str, path: str, body: bytes, timeout_seconds: float | None) -> Answer:
        return await self._control.post(self._poller.address(node), path, body, timeout_seconds)


def load_request(spec: ModelSpec, devices: tuple[int, ...] = ()) -> LoadRequest:
    """Return *spec* as a node is asked to load it, on *devices* if those are decided on."""
    return LoadRequest(
        id=spec.id,
        source=spec.source,
        engine=spec.engine_name,
        quant=spec.quant,
        context=spec.context,
        devices=list(devices) or spec.wanted_devices,
        min_device_vram_mb=spec.device_floor_bytes >> 20 or None,
        vram_mb=spec.vram_mb,
        options=spec.options,
    )


def stages_of(body: bytes) -> list[LoadStage]:
    """Return where a node says that the time of its load went; nothing if it does not say."""
    try:
        return _loaded.decode(body).stages
    except msgspec.MsgspecError:
        return []


def need_of(answer: EstimateAnswer) -> Need:
    """Return what a node said of a model's need as decisions take it."""
    if not answer.bytes_per_device or answer.basis == "unknown":
        return UNKNOWN
    return Need(tuple(sorted(answer.bytes_per_device.values(), reverse=True)), answer.basis)
