"""The page of metrics, from the families that both programs count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import anyio
from prometheus_client.core import Metric

from cortex.core.metrics import Family
from cortex.gateway.metrics.families import FAMILIES
from cortex.neuron.metrics import Metrics
from cortex.wire.engine_api import Usage
from cortex.wire.node_api import DeviceHealth, ModelInfo

HEAD = """# Metrics

<!-- Written by docs/generate: `make docs`. -->

The gateway tells Prometheus on `metrics_listen` (without a key) and on `/metrics` of its API (scope `admin`); a neuron
on its own port. Both speak Prometheus' text, the gateway also OpenMetrics to those who ask for it. A request is counted
once the last byte of its answer is out. What is about a node, a model or a key that is gone is gone too.

`examples/monitoring` has a Grafana dashboard, alert rules and a scrape configuration over these.

`node` is `-` for requests that were refused before a node was chosen, and `model` is `unknown` for names that no model
has: what clients make up is no series. At most 200 keys are told by name, the others as `other`.

"""


def gateway_rows() -> Iterator[str]:
    """Yield a row for each family of the gateway."""
    for family in FAMILIES:
        yield _row(family.exposed, family.kind, family.labels, family.text)


async def neuron_rows() -> list[str]:
    """Return a row for each family of a neuron, found by having it count one request on one device.

    It counts the tasks of an event loop too, so there has to be one.
    """
    metrics = Metrics()
    device = DeviceHealth(index=0, memory_used_bytes=0, memory_free_bytes=0, utilization_pct=0.0, temp_c=0.0)
    sizes = {"peak_by_device": {0: 1}, "estimated_by_device": {0: 1}}
    model = ModelInfo(id="m", engine="llamacpp", status="ready", memory_bytes=1, **sizes)
    metrics.observe(lambda: [device], lambda: [model])
    metrics.finished("m", "stop", Usage(1, 1), 1.0, 1.0)
    metrics.cancelled("m", 1)
    collected = [metric for metric in metrics.registry.collect() if metric.type != "info"]
    return [_row(_exposed(metric), metric.type, _labels(metric), metric.documentation) for metric in collected]


def page() -> str:
    """Return the page as it is to be."""
    tables = [_table("Gateway", gateway_rows()), _table("Neuron", anyio.run(neuron_rows)), _buckets(FAMILIES)]
    return HEAD + "\n".join(tables)


def _labels(metric: Metric) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for sample in metric.samples for label in sample.labels if label != "le"))


def _exposed(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _table(title: str, rows: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", "| name | kind | labels | |", "|---|---|---|---|", *rows, ""])


def _row(name: str, kind: str, labels: Iterable[str], text: str) -> str:
    return f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {text} |"


def _buckets(families: Iterable[Family]) -> str:
    histograms = [family for family in families if family.buckets]
    rows = [f"| `{family.name}` | {', '.join(map(str, family.buckets))} |" for family in histograms]
    return "\n".join(["## Buckets of the gateway's histograms", "", "| name | upper bounds |", "|---|---|", *rows, ""])
