"""What `cortex trace` prints, from the gateway's JSON. Nothing in it is read as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cortex.cli.tables import plain_table

BAR_CELLS = 24
_STYLES = {"answered": "green", "left": "yellow", "failed": "red"}
_BARS = {"waiting": "yellow", "failed attempt": "red", "prefill": "cyan", "decode": "green"}
_SLIVER = "▏"


def requests_table(traces: Sequence[Mapping[str, Any]]) -> Table:
    """Return an answer of `/traces` as a table."""
    table = plain_table("received", "request", "model", "node", "outcome", "waited", "first token", "total")
    table.columns[1].no_wrap = True
    for trace in traces:
        waited = f"{_seconds(trace.get('wait_seconds'))}{' (cold)' if trace.get('loads') else ''}"
        table.add_row(
            Text(f"{_moment(trace):%H:%M:%S}", style="dim"),
            Text(str(trace.get("id", "?"))),
            Text(str(trace.get("model", "?"))),
            Text(str(trace.get("node", "-"))),
            _outcome(trace),
            Text(waited),
            Text(_seconds(trace.get("first_token_at"))),
            Text(_seconds(trace.get("seconds"))),
        )
    return table


def story(trace: Mapping[str, Any]) -> Group:
    """Return an answer of `/traces/{id}`: who asked for what, the waterfall, and what was decided why."""
    parts: list[RenderableType] = [_headline(trace), *(Text(fact, style="dim") for fact in _facts(trace)), Text()]
    parts.append(_waterfall(trace.get("spans", []), float(trace.get("seconds") or 0.0)))
    decided = list(_decisions(trace))
    if decided:
        parts += [Text(), *decided]
    return Group(*parts)


def _headline(trace: Mapping[str, Any]) -> Text:
    return Text.assemble(
        (str(trace.get("id", "?")), "bold"),
        f"  {trace.get('model', '?')} on {trace.get('node', '-')}  ",
        _outcome(trace),
        f"  {_seconds(trace.get('seconds'))}",
    )


def _outcome(trace: Mapping[str, Any]) -> Text:
    outcome = str(trace.get("outcome", "?"))
    ended = trace.get("code") or (trace.get("finish_reason") if outcome == "answered" else None)
    status = f" {trace.get('status')}" if outcome == "failed" else ""
    return Text(f"{outcome}{status}{f' ({ended})' if ended else ''}", style=_STYLES.get(outcome, ""))


def _facts(trace: Mapping[str, Any]) -> Iterator[str]:
    stream = "stream" if trace.get("stream") else "one answer"
    asked = f", asked for as {trace['asked']}" if trace.get("asked") not in ("", None, trace.get("model")) else ""
    key = f", key {trace['key']}" if trace.get("key") else ""
    yield f"{_moment(trace):%Y-%m-%d %H:%M:%S}, {trace.get('path', '')} ({stream}){asked}{key}"
    if trace.get("reason"):
        yield str(trace["reason"])
    facts = [f"first token after {_seconds(trace['first_token_at'])}"] if trace.get("first_token_at") else []
    if trace.get("prompt_tokens") is not None:
        cached = f" ({trace['cached_tokens']} cached)" if trace.get("cached_tokens") else ""
        facts.append(f"{trace['prompt_tokens']} prompt tokens{cached}, {trace.get('completion_tokens')} completion")
    if trace.get("tokens_per_second"):
        facts.append(f"{trace['tokens_per_second']:.1f} tok/s")
    if facts:
        yield ", ".join(facts)
    if trace.get("traceparent"):
        yield f"traceparent {trace['traceparent']}"


def _waterfall(spans: Sequence[Mapping[str, Any]], seconds: float) -> Table:
    """Return *spans* of a request that took so many *seconds*, each as a bar from its begin to its end."""
    first = min([0.0, *(float(span["at"]) for span in spans)])
    last = max([seconds, *(float(span["at"]) + float(span["seconds"]) for span in spans)])
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, width=BAR_CELLS)
    table.add_column(overflow="fold", style="dim")
    for span in spans:
        name, at, took = str(span["name"]), float(span["at"]), float(span["seconds"])
        style = _BARS.get(name, "magenta" if span.get("depth") else "")
        table.add_row(
            Text(f"{'  ' * int(span.get('depth', 0))}{name}"),
            Text(_seconds(took)),
            Text(bar(at - first, took, last - first), style=style),
            Text(str(span.get("note") or "")),
        )
    return table


def bar(at: float, seconds: float, whole: float, cells: int = BAR_CELLS) -> str:
    """Return a bar for *seconds* from *at* on, of a line of *cells* that is *whole* seconds long."""
    scale = cells / whole if whole > 0 else 0.0
    begin = min(int(at * scale), cells - 1)
    full = min(round(seconds * scale), cells - begin)
    return " " * begin + ("█" * full if full else _SLIVER if seconds > 0 else "")


def _decisions(trace: Mapping[str, Any]) -> Iterator[RenderableType]:
    decision = trace.get("decision")
    if decision:
        yield Text(f"chosen: {decision['node']}, {decision['reason']}")
        yield from _rejected(decision)
    for load in trace.get("loads", []):
        gone = f", after unloading {', '.join(load['evicted'])}" if load.get("evicted") else ""
        yield Text(f"loaded on {load['node']}{gone}: {load.get('why', '')} (for: {load.get('cause', '?')})")


def _rejected(decided: Mapping[str, Any]) -> Iterator[RenderableType]:
    for node, reason in (decided.get("rejected") or {}).items():
        yield Padding.indent(Text(f"not {node}: {reason}", style="dim"), 2)


def _moment(trace: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(float(trace.get("received") or 0.0)).astimezone()


def _seconds(value: float | None) -> str:
    """Return a time for reading: `830 ms`, `12.3 s`."""
    if value is None:
        return ""
    return f"{1000 * value:.0f} ms" if abs(value) < 1 else f"{value:.1f} s"
