"""What a neuron counts, as Prometheus reads it. State that others own is read when it is asked for, never copied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex.neuron.savings import Savings
from cortex.wire.engine_api import Usage
from cortex.wire.node_api import DeviceHealth, ModelInfo, estimate_error

TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
DURATION_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)


class Metrics:
    """Counters and histograms of generations, and gauges over devices and replicas."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.savings = Savings()
        self._requests = Counter(
            "neuron_requests", "Generations by how they ended", ["model", "reason"], registry=self.registry
        )
        self._tokens = Counter("neuron_tokens", "Tokens", ["model", "kind"], registry=self.registry)
        self._saved = Counter(
            "neuron_cancelled_tokens_saved",
            "Tokens not decoded for who had left: the mean of the model's longer answers, or the limit, less what came",
            ["model"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "neuron_request_duration_seconds",
            "From the request to its last token",
            ["model"],
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._ttft = Histogram(
            "neuron_time_to_first_token_seconds",
            "From the request to its first token",
            ["model"],
            buckets=TTFT_BUCKETS,
            registry=self.registry,
        )

    def observe(self, devices: Callable[[], Sequence[DeviceHealth]], models: Callable[[], Sequence[ModelInfo]]) -> None:
        """Show the state behind *devices* and *models* as gauges."""
        self.registry.register(_State(devices, models))

    def cancelled(self, model: str, saved_tokens: int) -> None:
        """Count what one generation that was cancelled would still have taken."""
        self._saved.labels(model).inc(saved_tokens)

    def finished(
        self, model: str, reason: str, usage: Usage, seconds: float, first_token_seconds: float | None
    ) -> None:
        """Count one generation that ended."""
        self._requests.labels(model, reason).inc()
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "cached_prompt").inc(usage.cached_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)
        self._duration.labels(model).observe(seconds)
        if first_token_seconds is not None:
            self._ttft.labels(model).observe(first_token_seconds)


class _State(Collector):
    def __init__(
        self, devices: Callable[[], Sequence[DeviceHealth]], models: Callable[[], Sequence[ModelInfo]]
    ) -> None:
        self._devices, self._models = devices, models

    def collect(self) -> Iterable[Metric]:
        """Return the gauges as they are now."""
        used = GaugeMetricFamily("neuron_device_memory_used_bytes", "Memory in use", labels=["device"])
        free = GaugeMetricFamily("neuron_device_memory_free_bytes", "Memory free", labels=["device"])
        reserved = GaugeMetricFamily(
            "neuron_device_memory_reserved_bytes", "What loads in progress have still to take", labels=["device"]
        )
        busy = GaugeMetricFamily("neuron_device_utilization_percent", "Utilisation", labels=["device"])
        warm = GaugeMetricFamily("neuron_device_temperature_celsius", "Temperature", labels=["device"])
        for device in self._devices():
            labels = [str(device.index)]
            used.add_metric(labels, device.memory_used_bytes)
            free.add_metric(labels, device.memory_free_bytes)
            reserved.add_metric(labels, device.memory_reserved_bytes)
            if device.utilization_pct is not None:
                busy.add_metric(labels, device.utilization_pct)
            if device.temp_c is not None:
                warm.add_metric(labels, device.temp_c)
        tasks = GaugeMetricFamily("neuron_tasks", "Tasks of the event loop", value=len(asyncio.all_tasks()))
        ready = GaugeMetricFamily("neuron_replica_ready", "1 if the replica serves", labels=["model"])
        flight = GaugeMetricFamily("neuron_replica_in_flight", "Requests that decode", labels=["model"])
        queued = GaugeMetricFamily("neuron_replica_queued", "Requests that wait", labels=["model"])
        memory = GaugeMetricFamily("neuron_replica_memory_bytes", "Memory of the engine process", labels=["model"])
        restarts = GaugeMetricFamily("neuron_replica_restarts", "Restarts after a crash", labels=["model"])
        error = GaugeMetricFamily(
            "neuron_estimate_error_ratio",
            "What the load was let in with over the most it has held, less 1; below 0, it was let in with too little",
            labels=["model", "basis"],
        )
        for model in self._models():
            labels = [model.id]
            ready.add_metric(labels, float(model.status == "ready"))
            flight.add_metric(labels, model.in_flight)
            queued.add_metric(labels, model.queued)
            restarts.add_metric(labels, model.restarts)
            if model.memory_bytes is not None:
                memory.add_metric(labels, model.memory_bytes)
            if (ratio := estimate_error(model)) is not None:
                error.add_metric([model.id, model.estimate_basis], ratio)
        return [used, free, reserved, busy, warm, tasks, ready, flight, queued, memory, restarts, error]
