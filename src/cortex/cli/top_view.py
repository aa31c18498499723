"""What `cortex top` shows: one frame from the gateway's answers, readable at 80 columns. Nothing is read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cortex.cli.tables import gibibytes, node_state

METER_CELLS, DEVICE_CHARS = 10, 18
_WIDEST = {"node": 16, "model": 30, "state": 12, "device": DEVICE_CHARS}
_STATES = {"ready": "green", "loading": "yellow", "draining": "yellow", "failed": "red"}
_KINDS = {"load_failed": "red", "refused": "red", "evicted": "yellow", "load_finished": "green"}


def frame(
    fleet: Mapping[str, Any], minutes: Sequence[Mapping[str, Any]], decisions: Sequence[Mapping[str, Any]]
) -> RenderableType:
    """Return what there is to see of *fleet*, its last *minutes* and its last *decisions*."""
    nodes = fleet.get("nodes", [])
    parts: list[RenderableType] = [_headline(fleet, minutes), Text(), _devices(nodes), Text(), _replicas(fleet, nodes)]
    if decisions:
        parts += [Text(), *map(_decision, reversed(decisions))]
    return Group(*parts)


def lost(view: RenderableType, why: str) -> RenderableType:
    """Return *view* with a line above it that says why it is no longer how things are."""
    return Group(Text(why, style="bold red"), Text(), view)


def _headline(fleet: Mapping[str, Any], minutes: Sequence[Mapping[str, Any]]) -> Text:
    nodes, last = fleet.get("nodes", []), minutes[-1] if minutes else {}
    healthy = sum(bool(node.get("healthy")) for node in nodes)
    flights = sum(replica.get("in_flight") or 0 for node in nodes for replica in node.get("replicas", []))
    waiting = sum((fleet.get("waiting") or {}).values())
    speed = max((float(minute.get("tokens_per_second") or 0.0) for minute in minutes[-2:]), default=0.0)
    first = last.get("ttft_p95_seconds")
    facts = [f"{healthy} of {len(nodes)} nodes", f"{flights} in flight", f"{waiting} waiting", f"{speed:.1f} tok/s"]
    facts += [f"TTFT p95 {first:.2f} s"] if first is not None else []
    facts += [f"{last['errors']} errors"] if last.get("errors") else []
    return Text(", ".join(facts), style="bold")


def _devices(nodes: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("node", "state", "device", "memory", "", "busy", "heat")
    for node in nodes:
        name, state = Text(str(node.get("name", "?"))), node_state(node)
        for device in node.get("devices") or [{}]:
            table.add_row(name, state, *_device(device))
            name = state = Text()
    return table


def _device(device: Mapping[str, Any]) -> tuple[Text, ...]:
    total, free = float(device.get("total_bytes") or 0), float(device.get("free_bytes") or 0)
    if not total:
        return Text("none"), Text(), Text(), Text(), Text()
    used, busy, heat = 1 - free / total, device.get("utilization_percent"), device.get("temperature_celsius")
    style = "red" if used > 0.95 else "yellow" if used > 0.8 else "green"
    return (
        Text(str(device.get("name", "?"))[:DEVICE_CHARS]),
        Text(meter(used), style=style),
        Text(f"{(total - free) / 2**30:.1f} of {gibibytes(int(total))}"),
        Text("" if busy is None else f"{busy:.0f}%"),
        Text("" if heat is None else f"{heat:.0f}°"),
    )


def meter(share: float, cells: int = METER_CELLS) -> str:
    """Return a meter of *cells* that is filled to *share*, from 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * cells)
    return "█" * full + "░" * (cells - full)


def _replicas(fleet: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Table:
    waiting = dict(fleet.get("waiting") or {})
    table = _table("model", "node", "state", "in flight", "waiting", "tok/s")
    rows = [(str(r.get("model", "?")), str(node.get("name", "?")), r) for node in nodes for r in node["replicas"]]
    for model, node, replica in sorted(rows, key=lambda row: row[:2]):
        state, queued = str(replica.get("state", "?")), waiting.pop(model, None)
        told = replica.get("progress") or state
        speed = replica.get("tokens_per_second")
        table.add_row(
            Text(model),
            Text(node),
            Text(told if state == "loading" else state, style=_STATES.get(state, "")),
            Text(f"{replica.get('in_flight') or 0} of {replica.get('slots') or '?'}"),
            Text(str(queued or "")),
            Text("" if speed is None else f"{speed:.1f}"),
        )
    for model, queued in sorted(waiting.items()):
        table.add_row(Text(str(model)), Text("nowhere yet", style="dim"), Text(), Text(), Text(str(queued)), Text())
    return table


def _decision(entry: Mapping[str, Any]) -> Text:
    kind, at = str(entry.get("kind", "?")), datetime.fromtimestamp(float(entry.get("time") or 0.0)).astimezone()
    where = f" on {entry['node']}" if entry.get("node") else ""
    return Text.assemble(
        (f"{at:%H:%M:%S} ", "dim"),
        (kind.replace("_", " "), _KINDS.get(kind, "")),
        f" {entry.get('model', '')}{where}",
        (f": {entry.get('reason', '')}", "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=_WIDEST.get(column))
    return table
