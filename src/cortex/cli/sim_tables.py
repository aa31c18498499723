"""What `cortex simulate` prints: the runs side by side, then each run's models and nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cortex.sim.report import ModelReport, NodeReport, Report, Spread

# A run's own tables list no more than so many rows; --json has all of them.
ROWS = 20

_FIGURES: Sequence[tuple[str, Callable[[Report], str]]] = (
    ("requests", lambda r: f"{r.requests:,}"),
    ("answered", lambda r: f"{r.answered:,}"),
    ("refused", lambda r: _causes(r.refused)),
    ("cut short by an outage", lambda r: f"{r.broken:,}"),
    ("sent to another node", lambda r: f"{r.retries:,}"),
    ("cold starts", lambda r: f"{r.cold_starts:,}"),
    ("loads", lambda r: f"{r.loads:,}"),
    ("failed loads", lambda r: _causes(r.failed_loads)),
    ("swaps", lambda r: f"{r.swaps:,}"),
    ("evictions", lambda r: f"{r.evictions:,}"),
    ("to the first token: p50", lambda r: seconds_text(r.ttft_seconds.p50)),
    ("p90", lambda r: seconds_text(r.ttft_seconds.p90)),
    ("p99", lambda r: seconds_text(r.ttft_seconds.p99)),
    ("longest", lambda r: seconds_text(r.ttft_seconds.max)),
    ("to a slot: p50 / p99", lambda r: _pair(r.queue_seconds)),
    ("to a slot, cold: p50 / p99", lambda r: _pair(r.cold_start_seconds)),
    ("to the end: p50 / p99", lambda r: _pair(r.total_seconds)),
    ("tokens written a second", lambda r: f"{r.tokens_per_second:,.1f}"),
    ("prompt tokens cached", lambda r: _percent(r.cached_tokens / r.prompt_tokens if r.prompt_tokens else 0.0)),
    ("nodes busy", lambda r: _percent(r.busy)),
    ("memory held", lambda r: _percent(r.memory)),
    ("time simulated", lambda r: _lasting(r.seconds) + ("" if r.complete else ", interrupted")),
)


def runs_table(reports: Sequence[Report]) -> Table:
    """Return a column for each of *reports*."""
    table = _table("", *(f"{report.fleet}, {report.policy}" for report in reports))
    for name, figure in _FIGURES:
        table.add_row(Text(name), *(Text(figure(report)) for report in reports))
    return table


def models_table(report: Report) -> Table:
    """Return the models of *report*, those with the most requests first."""
    table = _table("model", "requests", "refused", "cold", "loads", "evicted", "first token p50", "p99", "slot p99")
    ranked = sorted(report.models, key=lambda model: (-model.requests, model.model))
    for model in ranked[:ROWS]:
        table.add_row(*map(Text, _model(model)))
    return _ended(table, len(ranked))


def nodes_table(report: Report) -> Table:
    """Return the nodes of *report*."""
    table = _table("node", "requests", "loads", "evictions", "busy", "memory", "tokens/s")
    for node in report.nodes[:ROWS]:
        table.add_row(*map(Text, _node(node, report.seconds)))
    return _ended(table, len(report.nodes))


def _model(model: ModelReport) -> tuple[str, ...]:
    return (
        model.model,
        f"{model.requests:,}",
        _causes(model.refused),
        f"{model.cold_starts:,}",
        f"{model.loads:,}",
        f"{model.evictions:,}",
        seconds_text(model.ttft_seconds.p50),
        seconds_text(model.ttft_seconds.p99),
        seconds_text(model.queue_seconds.p99),
    )


def _node(node: NodeReport, seconds: float) -> tuple[str, ...]:
    rate = node.completion_tokens / seconds if seconds else 0.0
    counts = (f"{node.requests:,}", f"{node.loads:,}", f"{node.evictions:,}")
    return (node.node, *counts, _percent(node.busy), _percent(node.memory), f"{rate:,.1f}")


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(first), overflow="fold")
    for other in others:
        table.add_column(Text(other), justify="right", overflow="fold")
    return table


def _ended(table: Table, count: int) -> Table:
    if count > ROWS:
        table.add_row(Text(f"and {count - ROWS} more: --json has them", style="dim"))
    return table


def seconds_text(seconds: float) -> str:
    """Return *seconds* for reading: as milliseconds below one."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"


def _pair(spread: Spread) -> str:
    return f"{seconds_text(spread.p50)} / {seconds_text(spread.p99)}"


def _causes(counts: Mapping[str, int]) -> str:
    """Return the sum and what it is of."""
    if not counts:
        return "0"
    return f"{sum(counts.values()):,} ({', '.join(f'{code} {count:,}' for code, count in counts.items())})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _lasting(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
