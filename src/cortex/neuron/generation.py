"""Answer inference requests from a replica: one path, streamed or not; the whole answer is the collected stream.

Every request leaves a trail under its id: started, prefill done, finished, each with the time it took, and each token
at trace level.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cortex.core.errors import BadRequest, CortexError, EngineFailed, UpstreamTimeout
from cortex.core.logging import TRACE, get_logger
from cortex.fleet.suspects import DEATHS_HEADER
from cortex.neuron.config import Limits
from cortex.neuron.metrics import Metrics
from cortex.neuron.models import Models
from cortex.neuron.patience import Patience
from cortex.neuron.replica import Replica
from cortex.serving.event_stream import EventStream
from cortex.serving.exchange import JSON, Exchange
from cortex.serving.head import Headers
from cortex.wire.collect import Collector, usage_chunk
from cortex.wire.engine_api import Chunk, Finished, Kind, Progress, ReplicaInfo, Timings, Usage
from cortex.wire.errors import DONE, openai_event
from cortex.wire.openai import KINDS, Request, read_request
from cortex.wire.reasoning import unheeded
from cortex.wire.rerank import RerankRequest
from cortex.wire.sse import Trailer, data_event, encode_trailer, trailer_event
from cortex.wire.traceparent import valid_traceparent
from cortex.wire.translation import Opening, opening_comment

log = get_logger(__name__)

# A refusal by the engine (a prompt that is too long, a schema that is not one) comes sooner than this.
PATIENCE_SECONDS = 0.5
_CAPABILITY: dict[Kind, str] = {
    "chat": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "rerank": "rerank",
}


class _Scores(msgspec.Struct):
    scores: list[float]


_scores = msgspec.json.Decoder(_Scores)


@dataclass(slots=True)
class Trail:
    """What is known of one generation so far; `note` is fed every event, `close` is called however it ends."""

    request_id: str
    replica: Replica
    request: Request
    metrics: Metrics
    traceparent: str | None = None
    arrived: float = field(default_factory=time.perf_counter)
    prompt_tokens: int | None = None
    chunks: int = 0
    first_chunk: float | None = None
    finished: Finished | None = None

    def note(self, event: Progress | Chunk | Finished) -> None:
        """Take one event in."""
        match event:
            case Progress():
                if self.prompt_tokens is None:
                    self.prompt_tokens = event.total
                    self._started(event.cached)
                log.trace("prefill_step", request=self.request_id, done=event.done, total=event.total)
            case Chunk():
                self.chunks += 1
                if self.first_chunk is None:
                    if self.prompt_tokens is None:
                        self._started(None)  # not every engine tells of its prefill
                    self._prefill_done()
                if log.enabled(TRACE):
                    log.trace("token", request=self.request_id, index=self.chunks, chunk=event.data.decode())
            case Finished():
                self.finished = event

    def elapsed(self) -> float:
        """Return the seconds since the request arrived."""
        return time.perf_counter() - self.arrived

    def _started(self, cached_tokens: int | None) -> None:
        running = self.replica.running
        log.info(
            "generation_started",
            request=self.request_id,
            model=self.replica.spec.id,
            kind=self.request.kind,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=cached_tokens,
            max_tokens=self.request.max_tokens,
            sampling=self.request.sampling or {},
            engine=self.replica.spec.engine_name,
            devices=running.devices if running else [],
            queue_seconds=self.elapsed(),
            **({"traceparent": self.traceparent} if self.traceparent else {}),
        )

    def _prefill_done(self) -> None:
        self.first_chunk = time.perf_counter()
        log.info("prefill_done", request=self.request_id, elapsed_seconds=self.elapsed())

    def close(self, error: BaseException | None) -> None:
        """Write the last line of the trail, and count."""
        usage = self.finished.usage if self.finished else Usage(self.prompt_tokens or 0, self.chunks)
        timings = self.finished.timings if self.finished else Timings()
        reason = self.finished.reason if self.finished else "failed" if isinstance(error, Exception) else "aborted"
        if self.first_chunk is not None:
            decode_seconds = time.perf_counter() - self.first_chunk
            log.info(
                "decode_done", request=self.request_id, tokens=usage.completion_tokens, elapsed_seconds=decode_seconds
            )
        keys: dict[str, Any] = {"error": str(error)} if isinstance(error, Exception) else {}
        if self.finished is not None:
            self.metrics.savings.learn(self.replica.spec.id, usage.completion_tokens)
        elif reason == "aborted" or isinstance(error, UpstreamTimeout):
            keys["saved_tokens"] = self._cancelled(usage.completion_tokens)
        log.info(
            "generation_finished",
            request=self.request_id,
            model=self.replica.spec.id,
            reason=reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            queue_ms=timings.queue_ms,
            prefill_ms=timings.prefill_ms,
            decode_ms=timings.decode_ms,
            total_seconds=self.elapsed(),
            **keys,
        )
        self.metrics.finished(self.replica.spec.id, reason, usage, self.elapsed(), self.first_token_seconds)

    def _cancelled(self, came: int) -> int:
        """Count and return the tokens that are not decoded because nobody wants them any more."""
        model, limit = self.replica.spec.id, self.request.max_tokens
        saved = self.metrics.savings.saved(model, came, limit and limit * self.request.choices)
        self.metrics.cancelled(model, saved)
        return saved

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds from the request to the first token, if one came."""
        return None if self.first_chunk is None else self.first_chunk - self.arrived


class Generation:
    """The handlers of the data path on a node."""

    def __init__(self, models: Models, metrics: Metrics, limits: Limits) -> None:
        self._models, self._metrics, self._limits = models, metrics, limits

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request. Whatever is wrong with it is raised before the first byte goes out."""
        exchange.head.require_json()
        request = read_request(KINDS[exchange.path], exchange.body)
        named = exchange.header(b"x-cortex-model")
        replica = self._models.get(named.decode("latin-1") if named else request.model)
        info = replica.admit().info
        _check_capability(replica.spec.id, info, request)
        if deaths := exchange.header(DEATHS_HEADER):
            replica.probation.hear(replica.spec.id, request.kind, request.body, _count_of(deaths))
        ignored = request.ignored + unheeded(request.effort, request.template_kwargs, info.template_variables)
        headers: Headers = [(b"x-cortex-ignored", ", ".join(ignored).encode())] if ignored else []
        traceparent = valid_traceparent(exchange.header(b"traceparent"))
        trail = Trail(exchange.request_id, replica, request, self._metrics, traceparent)
        log.debug("generation_queued", request=exchange.request_id, model=replica.spec.id, in_flight=replica.in_flight)
        error: BaseException | None = None
        try:
            with Patience(self._limits.first_token_seconds, self._limits.idle_token_seconds) as patience:
                async with aclosing(
                    replica.generate(request.kind, request.body, request.choices, exchange.request_id)
                ) as events:
                    if request.stream:
                        await self._stream(exchange, request, trail, patience, events, headers)
                    else:
                        await self._whole(exchange, request, trail, patience, events, headers)
        except BaseException as raised:
            error = raised
            raise
        finally:
            trail.close(error)

    async def _stream(
        self,
        exchange: Exchange,
        request: Request,
        trail: Trail,
        patience: Patience,
        events: AsyncGenerator[Progress | Chunk | Finished, None],
        headers: Headers,
    ) -> None:
        last = b"{}"
        with EventStream(
            exchange, headers=headers, patience_seconds=PATIENCE_SECONDS, last_words=_last_words
        ) as stream:
            opens = exchange.header(b"x-cortex-opening") is not None
            async for event in events:
                trail.note(event)
                if isinstance(event, Progress) and opens:
                    stream.write(opening_comment(Opening(event.total, event.cached)))
                    opens = False
                elif isinstance(event, Chunk):
                    stream.write(data_event(last := event.data))
                    patience.reader_is_behind = True
                    await stream.writable()
                    patience.reader_is_behind = False
                    patience.heard()
                elif isinstance(event, Finished):
                    usage = data_event(usage_chunk(last, event.usage)) if request.include_usage else b""
                    trailer = Trailer(event.usage, event.timings, event.reason)
                    stream.write(usage + DONE + trailer_event(trailer))
            stream.finish()

    async def _whole(
        self,
        exchange: Exchange,
        request: Request,
        trail: Trail,
        patience: Patience,
        events: AsyncGenerator[Progress | Chunk | Finished, None],
        headers: Headers,
    ) -> None:
        collector, answer = Collector(request.kind), b""
        async for event in events:
            trail.note(event)
            if isinstance(event, Finished):
                trailer = Trailer(event.usage, event.timings, event.reason)
                headers.append((b"x-cortex-trailer", encode_trailer(trailer)))
                answer = answer or collector.answer(event.usage)
                if request.rerank is not None:
                    answer = _ranked(request.rerank, answer, event.usage)
            elif isinstance(event, Chunk):
                patience.heard()
                if request.kind in ("embedding", "rerank"):
                    answer = event.data
                else:
                    collector.add(event.data)
        exchange.respond(200, answer, [JSON, *headers])


def _last_words(error: CortexError) -> bytes:
    """Return the end of a stream that failed on purpose: the error, and a trailer that says it is all there is."""
    return openai_event(error) + trailer_event(Trailer(Usage(), Timings(), "error", error.code))


def _count_of(deaths: bytes) -> int:
    """Return the number that a gateway tells. Raises BadRequest."""
    if not deaths.isdigit() or len(deaths) > 3:
        raise BadRequest(f"{DEATHS_HEADER.decode()}: expected a number")
    return int(deaths)


def _ranked(asked: RerankRequest, scores: bytes, usage: Usage) -> bytes:
    """Return the answer for the *scores* that the engine gave. Raises EngineFailed if they cannot be right."""
    try:
        return asked.answer(_scores.decode(scores).scores, usage.prompt_tokens)
    except msgspec.MsgspecError as error:
        raise EngineFailed(f"the engine's scores cannot be read: {error}", code="engine_answer_invalid") from None


def _check_capability(model: str, info: ReplicaInfo, request: Request) -> None:
    """Raise BadRequest if the replica cannot do what is asked."""
    wanted = _CAPABILITY[request.kind]
    if wanted not in info.capabilities:
        hint = f": {info.hints[wanted]}" if wanted in info.hints else ""
        raise BadRequest(
            f"{model} does not offer {wanted}; it offers {', '.join(info.capabilities)}{hint}",
            param="model",
            code="capability_not_supported",
        )
    if request.has_images and "vision" not in info.capabilities:
        hint = f": {info.hints['vision']}" if "vision" in info.hints else ""
        raise BadRequest(f"{model} takes no images{hint}", param="messages", code="vision_unsupported")
