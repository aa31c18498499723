"""What `cortex status` and `cortex models` print, from the gateway's JSON. Nothing in it is read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OFF_A_TERMINAL = 200
_STYLES = {"healthy": "green", "ready": "green", "loading": "yellow", "draining": "yellow", "failed": "red"}


def show(table: Table) -> None:
    """Print *table* on stdout, as wide as the terminal or, off one, wide enough for a pipe."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH_OFF_A_TERMINAL)).print(table)


def nodes_table(health: Mapping[str, Any]) -> Table:
    """Return the nodes of a gateway's `/health`."""
    table = _table("node", "state", "devices", "models")
    for node in health.get("details", []):
        state = "healthy" if node.get("healthy") else f"unhealthy: {node.get('reason') or 'no reason given'}"
        devices = [_device(device) for device in node.get("devices", [])]
        models = [_replica(model) for model in node.get("models", [])]
        name = Text(f"{node.get('name', '?')}\n") + Text(str(node.get("endpoint", "")), style="dim")
        table.add_row(name, _state(state), _lines(devices), _lines(models))
    if not table.rows:
        table.add_row(Text("none"), Text("no node is configured: add [[neurons]] to cortex.toml"), Text(), Text())
    return table


def models_table(listing: Mapping[str, Any]) -> Table:
    """Return the models of a gateway's `/v1/models`."""
    table = _table("model", "state", "nodes", "context", "engine", "notes")
    for model in listing.get("data", []):
        name = Text(str(model.get("id", "?")))
        if model.get("aliases"):
            name += Text(f"\nalso {', '.join(model['aliases'])}", style="dim")
        table.add_row(
            name,
            _state(str(model.get("state", "?"))),
            _lines(_places(model)),
            Text(str(model.get("context_length") or "")),
            Text(str(model.get("engine") or "")),
            _lines(_notes(model)),
        )
    return table


def gibibytes(count: int) -> str:
    """Return *count* bytes for reading."""
    return f"{count / 2**30:.1f} GiB"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _device(device: Mapping[str, Any]) -> str:
    return f"{device.get('name', '?')} ({device.get('kind', '?')}), {gibibytes(device.get('free_bytes') or 0)} free"


def _replica(model: Mapping[str, Any]) -> str:
    busy = model.get("in_flight")
    return f"{model.get('id', '?')} {model.get('status', '?')}" + (f", {busy} in flight" if busy else "")


def _places(model: Mapping[str, Any]) -> list[str]:
    """Return where *model* is, else where it could be."""
    there = [f"{place.get('node', '?')} {place.get('status', '?')}" for place in model.get("locations", [])]
    return there or [f"{node} possible" for node in model.get("feasible_on", [])]


def _notes(model: Mapping[str, Any]) -> list[str]:
    errors = [f"{place['node']}: {place['error']}" for place in model.get("locations", []) if place.get("error")]
    reason = [model["reason"]] if model.get("reason") else []
    return [*(["simulated"] if model.get("simulated") else []), *reason, *errors]


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, "red" if state.startswith("un") and state != "unloaded" else ""))


def _lines(lines: Sequence[str]) -> Text:
    return Text("\n".join(lines))
