"""What `cortex status` and `cortex models` print, from the gateway's JSON. Nothing in it is read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cortex.core.model_spec import DEFAULT_PRIORITY

WIDTH_OFF_A_TERMINAL = 200
NO_NODE = "no node is configured: `cortex node invite` has one join; or add one with `cortex node add NAME URL`"
_STYLES = {
    "healthy": "green",
    "ready": "green",
    "loading": "yellow",
    "draining": "yellow",
    "drained": "yellow",
    "failed": "red",
}


def show(printed: RenderableType) -> None:
    """Print on stdout, as wide as the terminal or, off one, wide enough for a pipe."""
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH_OFF_A_TERMINAL)).print(printed)


def nodes_table(health: Mapping[str, Any]) -> Table:
    """Return the nodes of a gateway's `/health`."""
    table = plain_table("node", "state", "devices", "models")
    for node in health.get("details", []):
        state = node_state(node)
        if skew := version_skew(node, health.get("version")):
            state += Text(f"\n{skew}", style="yellow")
        devices = [_device(device) for device in node.get("devices", [])]
        models = [_replica(model) for model in node.get("models", [])]
        table.add_row(node_name(node), state, lines(devices), lines(models))
    if not table.rows:
        table.add_row(Text("none"), Text(NO_NODE), Text(), Text())
    return table


def models_table(listing: Mapping[str, Any]) -> Table:
    """Return the models of a gateway's `/v1/models`."""
    table = plain_table("model", "state", "replicas", "nodes", "context", "engine", "notes")
    for model in listing.get("data", []):
        name = Text(str(model.get("id", "?")))
        if model.get("aliases"):
            name += Text(f"\nalso {', '.join(model['aliases'])}", style="dim")
        table.add_row(
            name,
            _state(str(model.get("state", "?"))),
            Text(_replicas(model)),
            lines(_places(model)),
            Text(str(model.get("context_length") or "")),
            Text(str(model.get("engine") or "")),
            lines([*_marks(model), *_notes(model)]),
        )
    return table


def gibibytes(count: int) -> str:
    """Return *count* bytes for reading."""
    return f"{count / 2**30:.1f} GiB"


def plain_table(*columns: str) -> Table:
    """Return an empty table, whose cells are never cut off."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def lines(texts: Sequence[str]) -> Text:
    """Return *texts* one below the other."""
    return Text("\n".join(texts))


def node_name(node: Mapping[str, Any]) -> Text:
    """Return what a node is called, above where it is."""
    return Text(f"{node.get('name', '?')}\n") + Text(str(node.get("endpoint", "")), style="dim")


def node_state(node: Mapping[str, Any]) -> Text:
    """Return whether a node is well, and whether it is taken out of service or is going."""
    if node.get("leaving"):
        state = _state("shutting down", "yellow")
    elif node.get("healthy"):
        state = _state("healthy")
    else:
        state = _state(f"unhealthy: {node.get('reason') or 'no reason given'}")
    return state + Text("\n") + _state("drained") if node.get("drained") else state


def version_skew(node: Mapping[str, Any], expected: str | None) -> str:
    """Return what to say of a node that runs another version than *expected*; nothing where either is not known."""
    version = node.get("version")
    return f"version {version}, and the gateway has {expected}" if version and expected and version != expected else ""


def _device(device: Mapping[str, Any]) -> str:
    return f"{device.get('name', '?')} ({device.get('kind', '?')}), {gibibytes(device.get('free_bytes') or 0)} free"


def _replica(model: Mapping[str, Any]) -> str:
    busy = model.get("in_flight")
    return f"{model.get('id', '?')} {model.get('status', '?')}" + (f", {busy} in flight" if busy else "")


def _replicas(model: Mapping[str, Any]) -> str:
    """Return how many replicas there are, and how many there may be where that is more than one."""
    count, most = model.get("replicas"), model.get("max_replicas") or 1
    return "" if count is None else f"{count} of {most}" if most > 1 else str(count)


def _places(model: Mapping[str, Any]) -> list[str]:
    """Return where *model* is, else where it could be."""
    there = [f"{place.get('node', '?')} {place.get('status', '?')}" for place in model.get("locations", [])]
    return there or [f"{node} possible" for node in model.get("feasible_on", [])]


def _marks(model: Mapping[str, Any]) -> list[str]:
    """Return what the catalogue says of how long *model* stays, where that is out of the ordinary."""
    priority, ttl, kept = model.get("priority"), model.get("ttl_seconds"), model.get("min_resident")
    marks = ["pinned"] if model.get("pinned") else []
    marks += [f"pinned on {node}" for node in model.get("pinned_on", [])]
    marks += [f"priority {priority}"] if priority not in (None, DEFAULT_PRIORITY) else []
    marks += [f"ttl {ttl:g} s"] if ttl else []
    marks += [f"min_resident {kept}"] if kept else []
    return [", ".join(marks)] if marks else []


def _notes(model: Mapping[str, Any]) -> list[str]:
    errors = [f"{place['node']}: {place['error']}" for place in model.get("locations", []) if place.get("error")]
    reason = [model["reason"]] if model.get("reason") else []
    return [*(["simulated"] if model.get("simulated") else []), *reason, *errors]


def _state(state: str, style: str | None = None) -> Text:
    usual = _STYLES.get(state, "red" if state.startswith("un") and state != "unloaded" else "")
    return Text(state, style=usual if style is None else style)
