"""Send stories of requests to an OpenTelemetry collector: an extra, from the thread that writes them.

The batch processor of the SDK sends in a thread of its own, and drops what a collector that is away does not take.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cortex import __version__
from cortex.core.errors import ConfigError
from cortex.gateway.trace.kept import Trace
from cortex.gateway.trace.waterfall import Span, spans
from cortex.wire.traceparent import parts

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
NANOSECONDS = 1_000_000_000


def check_installed(key: str) -> None:
    """Raise ConfigError, naming *key* and what to install, unless the extra is there."""
    if not all(_is_there(module) for module in NEEDED):
        raise ConfigError(f"{key}: OpenTelemetry is not installed; install it with: pip install 'cortex-fleet[otel]'")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class OtelExport:
    """Owns the way to one collector. `send` is called from one thread; `close` sends what is left, and waits for it."""

    def __init__(self, endpoint: str, service: str = "cortex") -> None:
        """Send to *endpoint*, such as http://127.0.0.1:4318/v1/traces. Raises ConfigError without the extra."""
        check_installed("trace.otlp_endpoint")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._resource = Resource.create({"service.name": service, "service.version": __version__})
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
        self._ids = random.SystemRandom()

    def send(self, traces: Sequence[Trace]) -> None:
        """Send *traces*, each as a span of its request with one for each stretch of its time."""
        for trace in traces:
            for span in self._spans(trace):
                self._processor.on_end(span)

    def close(self) -> None:
        """Send the rest."""
        self._processor.shutdown()

    def _spans(self, trace: Trace) -> list[ReadableSpan]:
        """Return *trace* as OpenTelemetry has it; what its client did not want sampled is not sent."""
        from opentelemetry.trace import SpanKind

        trace_id, parent_id, flags = parts(trace.traceparent) if trace.traceparent else (0, 0, 1)
        if not flags & 1:
            return []
        trace_id = trace_id or self._ids.getrandbits(128)
        root = self._context(trace_id)
        parent = self._context(trace_id, parent_id, is_remote=True) if parent_id else None
        whole = self._span(trace, Span("request", 0.0, trace.seconds), root, parent, SpanKind.SERVER, attributes(trace))
        told, above = [whole], [root]
        for span in spans(trace):
            context = self._context(trace_id)
            del above[span.depth + 1 :]
            noted = {"cortex.note": span.note} if span.note else {}
            told.append(self._span(trace, span, context, above[-1], SpanKind.INTERNAL, noted))
            above.append(context)
        return told

    def _context(self, trace_id: int, span_id: int | None = None, *, is_remote: bool = False) -> SpanContext:
        from opentelemetry.trace import SpanContext, TraceFlags

        return SpanContext(trace_id, span_id or self._ids.getrandbits(64), is_remote, TraceFlags(TraceFlags.SAMPLED))

    def _span(
        self,
        trace: Trace,
        span: Span,
        context: SpanContext,
        parent: SpanContext | None,
        kind: Any,
        attributes: dict[str, Any],
    ) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Status, StatusCode

        failed = trace.outcome == "failed" and span.name == "request"
        begun = trace.received + span.at
        return ReadableSpan(
            name=f"{span.name} {trace.model}" if span.name == "request" else span.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=Status(StatusCode.ERROR, trace.code) if failed else Status(),
            start_time=round(begun * NANOSECONDS),
            end_time=round((begun + max(0.0, span.seconds)) * NANOSECONDS),
        )


def attributes(trace: Trace) -> dict[str, Any]:
    """Return what is told of a request, by OpenTelemetry's names for generative AI where it has some."""
    told = {
        "gen_ai.request.model": trace.asked,
        "gen_ai.response.model": trace.model,
        "gen_ai.usage.input_tokens": trace.prompt_tokens,
        "gen_ai.usage.output_tokens": trace.completion_tokens,
        "gen_ai.response.finish_reasons": [trace.finish_reason] if trace.finish_reason else None,
        "http.response.status_code": trace.status,
        "url.path": trace.path,
        "error.type": trace.code,
        "cortex.request_id": trace.id,
        "cortex.node": trace.node,
        "cortex.key": trace.key,
        "cortex.dialect": trace.dialect,
        "cortex.outcome": trace.outcome,
        "cortex.cold_start": bool(trace.loads),
        "cortex.cached_tokens": trace.cached_tokens,
        "cortex.time_to_first_token_seconds": trace.first_token_at,
        "cortex.wait_seconds": trace.wait_seconds,
    }
    return {name: value for name, value in told.items() if value is not None}
