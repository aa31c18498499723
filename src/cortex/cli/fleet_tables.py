"""What `cortex explain` and `cortex node list` print, from the gateway's JSON. Nothing in it is read as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cortex.cli.tables import gibibytes, lines, node_name, node_state, plain_table

CANDIDATES_SHOWN = 20
_STYLES = {
    **dict.fromkeys(("serve", "free", "load_finished"), "green"),
    **dict.fromkeys(("queue", "load", "wait", "evict", "drain", "evicted", "unloaded"), "yellow"),
    **dict.fromkeys(("refuse", "never", "load_failed", "unload_failed", "plan_dropped", "refused"), "red"),
}


def explanation(explained: Mapping[str, Any]) -> Group:
    """Return an answer of `/fleet/explain`: a sentence, the replicas, and the candidates, the best first.

    Below the sentence nothing is wider than its words, so that a narrow terminal folds it and cuts nothing off.
    """
    parts: list[RenderableType] = [_sentence(explained), *map(_aside, _circumstances(explained))]
    if explained.get("replicas"):
        parts.append(_replicas(explained["replicas"]))
    candidates = explained.get("candidates", [])
    if candidates:
        parts.append(Text("where it could be loaded, the best place first:"))
    for place, candidate in enumerate(candidates[:CANDIDATES_SHOWN], 1):
        parts += _candidate(place, candidate)
    if len(candidates) > CANDIDATES_SHOWN:
        parts.append(_aside(f"and {len(candidates) - CANDIDATES_SHOWN} more nodes, all of them with --json"))
    return Group(*parts)


def timeline(explained: Mapping[str, Any]) -> Group:
    """Return the last decisions in an answer of `/fleet/explain`, the oldest first, below its sentence."""
    parts: list[RenderableType] = [_sentence(explained), Text()]
    for entry in explained.get("last", []):
        parts += _decision(entry)
    if not explained.get("last"):
        parts.append(Text("nothing was decided for it since the gateway started"))
    return Group(*parts)


def fleet_table(fleet: Mapping[str, Any]) -> Table:
    """Return the nodes of a gateway's `/fleet`."""
    table, nodes = plain_table("node", "health", "devices", "replicas", "version", "seen"), fleet.get("nodes", [])
    differ = len({node.get("version") for node in nodes if node.get("version")}) > 1
    for node in nodes:
        seen = node.get("seen_seconds_ago")
        table.add_row(
            node_name(node),
            node_state(node),
            lines([_device(device) for device in node.get("devices", [])]),
            lines([_loaded(replica) for replica in node.get("replicas", [])]),
            Text(str(node.get("version") or ""), style="yellow" if differ else ""),
            Text("never" if seen is None else f"{seen:.0f} s ago"),
        )
    return table


def _sentence(explained: Mapping[str, Any]) -> Text:
    style = _STYLES.get(str(explained.get("decision")), "")
    return Text.assemble((f"{explained.get('model', '?')}: ", "bold"), (str(explained.get("summary", "")), style))


def _circumstances(explained: Mapping[str, Any]) -> Iterator[str]:
    """What the decision depends on beside the nodes."""
    facts = [f"priority {explained['priority']}"] if explained.get("priority") is not None else []
    facts += [f"strategy {explained['strategy']}"] if explained.get("strategy") else []
    facts += [f"waiting requests: {explained['waiting']}"] if explained.get("waiting") else []
    facts += [] if explained.get("catalogued") else ["not in the catalogue"]
    yield ", ".join(facts)
    job = explained.get("job")
    if job:
        doing = " ".join(filter(None, [job.get("phase"), job.get("held")]))
        yield f"under way for {job.get('seconds', 0):.0f} s ({job.get('cause')}): {doing}"
        yield from (f"not on {node}: {error}" for node, error in (job.get("avoids") or {}).items())


def _replicas(replicas: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("replica on", "done in about", "in flight", "idle", "note")
    for replica in replicas:
        table.add_row(
            Text(str(replica.get("node", "?"))),
            Text(f"{replica.get('expected_seconds', 0):.1f} s"),
            Text(f"{replica.get('in_flight', 0)} of {replica.get('slots', '?')}"),
            Text(f"{replica.get('idle_seconds', 0):.0f} s"),
            Text(str(replica.get("note") or "")),
        )
    return table


def _candidate(place: int, candidate: Mapping[str, Any]) -> list[RenderableType]:
    verdict, plan = str(candidate.get("verdict", "?")), candidate.get("plan")
    cost = f", {plan['cost_seconds']:.1f} s" if plan else ""
    head = Text.assemble(
        f"{place:>3} ", (str(candidate.get("node", "?")), "bold"), "  ", (verdict, _STYLES.get(verdict, ""))
    )
    facts = [_room(room, blind=bool(plan and plan.get("blind"))) for room in candidate.get("devices", [])]
    facts += _steps(plan) if plan else []
    facts += [*dict.fromkeys([str(candidate.get("reason", "")), *candidate.get("obstacles", [])])]
    return [head + Text(cost), *(Padding.indent(Text(fact), 6) for fact in facts if fact)]


def _room(room: Mapping[str, Any], *, blind: bool) -> str:
    needed = "an unknown amount" if blind else gibibytes(room.get("needed_bytes", 0))
    free = gibibytes(max(0, room.get("free_bytes", 0)))
    return f"{room.get('name', '?')} (device {room.get('device', '?')}): {needed} needed, {free} free"


def _steps(plan: Mapping[str, Any]) -> list[str]:
    """Say what a plan takes away from others."""
    drains = plan.get("drains", [])
    idle = [model for model in plan.get("evicts", []) if model not in drains]
    unloads = [f"unloads {', '.join(idle)}"] if idle else []
    return unloads + ([f"drains {', '.join(drains)}, and unloads it then"] if drains else [])


def _decision(entry: Mapping[str, Any]) -> list[RenderableType]:
    kind = str(entry.get("kind", "?"))
    at = datetime.fromtimestamp(entry.get("time", 0)).astimezone()
    head = Text.assemble(
        (f"{at:%Y-%m-%d %H:%M:%S}  ", "dim"),
        (kind.replace("_", " "), _STYLES.get(kind, "")),
        f"  {entry.get('node') or ''}",
    )
    facts = [str(entry.get("reason") or "")]
    facts += [f"after {entry['seconds']:.1f} s"] if entry.get("seconds") is not None else []
    facts += [f"for: {entry['cause']}"] if entry.get("cause") else []
    facts += _steps(entry["plan"]) if entry.get("plan") else []
    return [head, *(Padding.indent(Text(fact), 6) for fact in facts if fact)]


def _device(device: Mapping[str, Any]) -> str:
    free, total = (device.get("free_bytes") or 0) / 2**30, gibibytes(device.get("total_bytes") or 0)
    return f"{device.get('name', '?')}, {free:.1f} of {total} free"


def _loaded(replica: Mapping[str, Any]) -> str:
    busy, waiting = replica.get("in_flight"), replica.get("queued")
    facts = [f"{replica.get('model', '?')} {replica.get('state', '?')}"]
    facts += [str(replica["progress"])] if replica.get("progress") else []
    facts += [f"{busy} of {replica.get('slots', '?')} in flight"] if busy else []
    facts += [f"{waiting} queued"] if waiting else []
    return ", ".join(facts)


def _aside(text: str) -> Text:
    return Text(text, style="dim")
