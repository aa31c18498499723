"""What the gateway counts, under the original's names. A request is counted when its last byte is out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex.fleet.view import FleetView
from cortex.fleet.work import Event
from cortex.wire.engine_api import Usage
from cortex.wire.sse import Trailer

DURATION_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
SPEED_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
_WHERE = ["model", "node"]


class Metrics:
    """Counters and histograms by model and node, and gauges over the view."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter("cortex_requests", "Requests", _WHERE, registry=registry)
        self._errors = Counter("cortex_request_errors", "Requests that failed", [*_WHERE, "code"], registry=registry)
        self._gone = Counter("cortex_client_disconnects", "Clients that left early", _WHERE, registry=registry)
        self._cold = Counter("cortex_cold_starts", "Loads that were begun", _WHERE, registry=registry)
        self._evictions = Counter(
            "cortex_evictions", "Replicas that made room for another model", _WHERE, registry=registry
        )
        self._unloads = Counter("cortex_unloads", "Replicas unloaded, for whatever reason", _WHERE, registry=registry)
        self._load_seconds = _histogram(registry, "cortex_load_seconds", "How long loads took", DURATION_BUCKETS)
        self._load_failures = Counter("cortex_load_failures", "Loads that failed", [*_WHERE, "code"], registry=registry)
        self._retries = Counter("cortex_retries", "Requests sent to another replica", _WHERE, registry=registry)
        self._duration = _histogram(
            registry, "cortex_request_duration_seconds", "From the request to its last byte", DURATION_BUCKETS
        )
        self._ttft = _histogram(
            registry, "cortex_time_to_first_token_seconds", "From the request to its first token", TTFT_BUCKETS
        )
        self._speed = _histogram(registry, "cortex_tokens_per_second", "Decoded tokens a second", SPEED_BUCKETS)
        self._prompt = Counter("cortex_prompt_tokens", "Prompt tokens", _WHERE, registry=registry)
        self._completion = Counter("cortex_completion_tokens", "Completion tokens", _WHERE, registry=registry)
        self._key_requests = Counter("cortex_key_requests", "Requests let in, by key", ["key"], registry=registry)
        self._key_refusals = Counter(
            "cortex_key_refusals",
            "Requests over a key's limits, or for another model",
            ["key", "code"],
            registry=registry,
        )
        self._key_tokens = Counter("cortex_key_tokens", "Tokens that keys used", ["key", "kind"], registry=registry)
        self._cached = Counter("cortex_cached_prompt_tokens", "Prompt tokens from a cache", _WHERE, registry=registry)

    def observe(self, view: Callable[[], FleetView]) -> None:
        """Show *view* as gauges."""
        self.registry.register(_Fleet(view))

    def decided(self, event: Event) -> None:
        """Count what became of a model on a node."""
        where = event.model, event.node
        match event.kind:
            case "load_started":
                self._cold.labels(*where).inc()
            case "load_finished":
                self._load_seconds.labels(*where).observe(event.details["seconds"])
            case "load_failed":
                self._load_failures.labels(*where, event.details["code"] or "unknown").inc()
            case "evicted":
                self._evictions.labels(*where).inc()
                self._unloads.labels(*where).inc()
            case "unloaded":
                self._unloads.labels(*where).inc()

    def retried(self, model: str, node: str) -> None:
        """Count a request that *node* did not take."""
        self._retries.labels(model, node).inc()

    def failed(self, model: str, node: str, code: str, seconds: float) -> None:
        """Count a request that ended in an error."""
        self._requests.labels(model, node).inc()
        self._errors.labels(model, node, code).inc()
        self._duration.labels(model, node).observe(seconds)

    def left(self, model: str, node: str, seconds: float) -> None:
        """Count a request whose client went away."""
        self._requests.labels(model, node).inc()
        self._gone.labels(model, node).inc()
        self._duration.labels(model, node).observe(seconds)

    def key_refused(self, key: str, code: str) -> None:
        """Count a request that the key called *key* was not allowed."""
        self._key_refusals.labels(key, code).inc()

    def key_used(self, key: str, usage: Usage | None) -> None:
        """Count a request of the key called *key*, and what it paid."""
        self._key_requests.labels(key).inc()
        if usage is not None:
            self._key_tokens.labels(key, "prompt").inc(usage.prompt_tokens)
            self._key_tokens.labels(key, "completion").inc(usage.completion_tokens)

    def served(
        self, model: str, node: str, seconds: float, trailer: Trailer | None, first_token_seconds: float | None
    ) -> None:
        """Count a request that was answered."""
        self._requests.labels(model, node).inc()
        self._duration.labels(model, node).observe(seconds)
        if trailer is None:
            return
        usage = trailer.usage
        self._prompt.labels(model, node).inc(usage.prompt_tokens)
        self._completion.labels(model, node).inc(usage.completion_tokens)
        self._cached.labels(model, node).inc(usage.cached_tokens)
        if first_token_seconds is not None:
            self._ttft.labels(model, node).observe(first_token_seconds)
        if trailer.timings.decode_ms > 0 and usage.completion_tokens > 1:
            self._speed.labels(model, node).observe(usage.completion_tokens / trailer.timings.decode_ms * 1000)


def _histogram(registry: CollectorRegistry, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, _WHERE, buckets=buckets, registry=registry)


class _Fleet(Collector):
    def __init__(self, view: Callable[[], FleetView]) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """Return the view as gauges; what is gone from the view is gone from here."""
        healthy = GaugeMetricFamily("cortex_node_healthy", "1 if the node answers", labels=["node"])
        free = GaugeMetricFamily("cortex_device_memory_free_bytes", "Free memory", labels=["node", "device"])
        flight = GaugeMetricFamily("cortex_model_in_flight", "Requests that decode", labels=["node", "model"])
        queued = GaugeMetricFamily("cortex_model_queue_depth", "Requests that wait", labels=["node", "model"])
        for node in self._view().nodes:
            healthy.add_metric([node.name], float(node.healthy))
            for room in node.rooms:
                free.add_metric([node.name, str(room.index)], room.free_bytes)
            for replica in node.replicas:
                flight.add_metric([node.name, replica.model], replica.in_flight)
                queued.add_metric([node.name, replica.model], replica.queued)
        return [healthy, free, flight, queued]
