"""One inference request, from its head to the last byte: route, load if cold, relay, go elsewhere while it can."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cortex.core.errors import CortexError, ModelNotFound, NoHealthyNode
from cortex.core.ids import is_model_id
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.route import Load, Refuse, Serve, Wait, route
from cortex.fleet.view import ReplicaView
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.loads import Loads
from cortex.gateway.metrics import Metrics
from cortex.gateway.poller import Poller
from cortex.gateway.relay import Outcome, Relay, TryElsewhere
from cortex.serving.event_stream import EventStream
from cortex.serving.exchange import Exchange
from cortex.wire.openai import KINDS, Request, read_head, read_request
from cortex.wire.sse import KEEP_ALIVE

log = get_logger(__name__)

PATIENCE_SECONDS = 0.9
MAX_ATTEMPTS = 4
# The node is well, and the model is not there, or not there yet: it may be loaded, or waited for.
_STALE = frozenset({"model_not_found", "model_not_ready", "engine_failed"})


@dataclass(slots=True)
class Story:
    """What happened to one request, for its last log line and the books."""

    exchange: Exchange
    model: str = "?"
    known: bool = False
    node: str = "-"
    stream: bool = False
    arrived: float = field(default_factory=time.perf_counter)
    load_seconds: float = 0.0
    attempts: int = 0
    outcome: Outcome | None = None

    def elapsed(self) -> float:
        """Return the seconds since the request arrived."""
        return time.perf_counter() - self.arrived

    @property
    def label(self) -> str:
        """The model as the books have it: what clients make up must not become a series each."""
        return self.model if self.known else "unknown"

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds from arrival to the first token: the way to the node, then what the node says it took."""
        if self.outcome is None or self.outcome.trailer is None:
            return None
        timings = self.outcome.trailer.timings
        return self.outcome.sent_at - self.arrived + (timings.queue_ms + timings.prefill_ms) / 1000


class Inference:
    """The handler of the data path. Owns the count of what is under way, per node and model."""

    def __init__(self, catalogue: Catalogue, poller: Poller, loads: Loads, relay: Relay, metrics: Metrics) -> None:
        self._catalogue, self._poller, self._loads = catalogue, poller, loads
        self._relay, self._metrics = relay, metrics
        self._busy: Counter[tuple[str, str]] = Counter()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request and write its last line, however it ends."""
        story = Story(exchange)
        try:
            await self._serve(exchange, story)
        except CortexError as error:
            self._metrics.failed(story.label, story.node, error.code or str(error.status), story.elapsed())
            self._log(story, status=error.status, error=str(error), code=error.code)
            raise
        except asyncio.CancelledError:
            self._metrics.left(story.label, story.node, story.elapsed())
            self._log(story, status=499, error="the client went away, or the gateway is stopping")
            raise
        except BaseException as error:
            self._metrics.failed(story.label, story.node, "internal_error", story.elapsed())
            self._log(story, status=500, error=repr(error), code="internal_error")
            raise
        trailer = story.outcome.trailer if story.outcome else None
        if trailer is not None and trailer.finish_reason == "error":
            self._metrics.failed(story.label, story.node, "stream_error", story.elapsed())
        else:
            self._metrics.served(story.label, story.node, story.elapsed(), trailer, story.first_token_seconds)
        self._log(story, status=exchange.status)

    async def _serve(self, exchange: Exchange, story: Story) -> None:
        exchange.require_json()
        head = read_head(exchange.body)
        spec = self._catalogue.find(head.model)
        model = spec.id if spec is not None else head.model
        if not is_model_id(model):
            raise ModelNotFound(model)
        story.model, story.stream = model, bool(head.stream)
        story.known = spec is not None or model in self._poller.view.models
        if not head.stream:
            await self._attempts(exchange, story, spec, None)
            return
        with EventStream(exchange, patience_seconds=PATIENCE_SECONDS, comment=self._keep_alive(model)) as stream:
            await self._attempts(exchange, story, spec, stream)
            stream.finish()

    def _keep_alive(self, model: str) -> Callable[[], bytes]:
        """Return what fills the silence of a request for *model*: how far its load is, if there is one."""

        def comment() -> bytes:
            job = self._loads.get(model)
            return job.comment() if job is not None else KEEP_ALIVE

        return comment

    async def _attempts(
        self, exchange: Exchange, story: Story, spec: ModelSpec | None, stream: EventStream | None
    ) -> None:
        """Route and relay until an answer is out, or nothing is left to try."""
        avoid: set[str] = set()
        last: CortexError | None = None
        checked: Request | None = None
        while story.attempts < MAX_ATTEMPTS:
            decision = route(story.model, spec, self._poller.view, busy=self._busy, avoid=avoid)
            match decision:
                case Serve(replica):
                    story.attempts += 1
                    try:
                        story.outcome = await self._relay_to(replica, exchange, story, stream)
                    except TryElsewhere as failure:
                        last = failure.error
                        await self._note_failure(replica, failure, story, avoid)
                    else:
                        return
                case Load() | Wait():
                    # What is wrong with the request must be known before a model is loaded for it.
                    checked = checked or read_request(KINDS[exchange.path], exchange.body)
                    if stream is not None and checked.ignored and not stream.opened:
                        stream.headers = [(b"x-cortex-ignored", ", ".join(checked.ignored).encode())]
                    await self._bring_up(decision, spec, story)
                case Refuse(error):
                    raise last or self._with_hints(error, story.model)
        raise last or NoHealthyNode(f"{story.model} could not be served in {MAX_ATTEMPTS} attempts")

    async def _bring_up(self, decision: Load | Wait, spec: ModelSpec | None, story: Story) -> None:
        """Wait for a load, ours or a node's own. Raises what it failed of."""
        story.attempts += 1
        began = time.perf_counter()
        try:
            if spec is None:  # not ours to load: somebody has told the node to
                assert isinstance(decision, Wait)
                story.node = decision.node
                await self._loads.follow(decision.model, decision.node)
            else:
                nodes = [c.node for c in decision.candidates] if isinstance(decision, Load) else [decision.node]
                job = self._loads.start(spec, nodes)
                story.node = job.node
                await job.wait()
        finally:
            story.load_seconds += time.perf_counter() - began

    async def _relay_to(
        self, replica: ReplicaView, exchange: Exchange, story: Story, stream: EventStream | None
    ) -> Outcome:
        story.node = replica.node
        address, key = self._poller.address(replica.node), (replica.node, story.model)
        self._busy[key] += 1
        try:
            if stream is not None:
                return await self._relay.stream(exchange, stream, address, replica.node, story.model)
            return await self._relay.unary(exchange, address, replica.node, story.model)
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]

    async def _note_failure(self, replica: ReplicaView, failure: TryElsewhere, story: Story, avoid: set[str]) -> None:
        """Look at the node again: first of all if the view of it was stale, for it may still serve; else avoid it."""
        self._metrics.retried(story.model, replica.node)
        log.warning(
            "attempt_failed",
            request=story.exchange.request_id,
            model=story.model,
            node=replica.node,
            code=failure.error.code,
            error=str(failure.error),
        )
        if failure.error.code in _STALE:
            await self._poller.poll(replica.node)
        else:
            avoid.add(replica.node)
            self._poller.nudge(replica.node)

    def _with_hints(self, error: CortexError, model: str) -> CortexError:
        if isinstance(error, ModelNotFound):
            return ModelNotFound(model, self._catalogue.near(model, self._poller.view.models))
        return error

    def _log(self, story: Story, **keys: object) -> None:
        trailer = story.outcome.trailer if story.outcome else None
        usage = trailer.usage if trailer else None
        log.info(
            "request_finished",
            request=story.exchange.request_id,
            path=story.exchange.path,
            model=story.model,
            node=story.node,
            stream=story.stream,
            attempts=story.attempts,
            load_seconds=story.load_seconds,
            ttft_seconds=story.first_token_seconds,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            reason=trailer.finish_reason if trailer else None,
            total_seconds=story.elapsed(),
            **keys,
        )
