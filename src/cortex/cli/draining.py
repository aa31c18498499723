"""Wait until a drained node is empty: what is still on it, why, and whether that can go anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from cortex.cli.failures import Failure
from cortex.cli.fleet_client import NotThere, ask, explain
from cortex.cli.steps import Steps

LOOK_SECONDS = 1.0
# That no other node can take a model may be so for a moment only, while a load there is in progress.
LOOKS_TO_BELIEVE = 3
_SETBACKS = frozenset({"load_failed", "unload_failed", "plan_dropped"})


@dataclass(frozen=True, slots=True)
class Left:
    """A replica that is still on the node, why, and whether it will go by itself."""

    model: str
    why: str
    goes: bool
    in_flight: int = 0

    def __str__(self) -> str:
        return f"{self.model} {self.why}" + (f" ({self.in_flight} in flight)" if self.in_flight else "")


def drain_and_wait(
    endpoint: str, name: str, steps: Steps, pause: Callable[[float], None] = time.sleep
) -> Sequence[Left]:
    """Return what stays on the drained node *name*, once all that can go elsewhere has gone. Raises Failure."""
    looks_without_hope = 0
    with steps:
        while True:
            left = left_on(name, ask(endpoint, "/fleet"), lambda model: explain(endpoint, model))
            looks_without_hope = 0 if any(replica.goes for replica in left) else looks_without_hope + 1
            if not left or looks_without_hope == LOOKS_TO_BELIEVE:
                return left
            steps.show(f"{name}: {'; '.join(map(str, left))}")
            pause(LOOK_SECONDS)


def left_on(name: str, fleet: Mapping[str, Any], explained: Callable[[str], Mapping[str, Any]]) -> list[Left]:
    """Return the replicas on the drained node *name* of a *fleet*; *explained* is what the gateway says of a model.

    Raises Failure if it is drained no longer, or does not answer: an answer may be on its way from there even so.
    """
    node = _drained(fleet, name)
    staying = {str(other["name"]) for other in fleet["nodes"] if not other.get("drained")}
    replicas = [r for r in node.get("replicas", []) if r.get("state") not in ("failed", "unloaded")]
    found = [_left(name, replica, staying, explained) for replica in replicas]
    return [left for left in found if left is not None]


def _drained(fleet: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    node: Mapping[str, Any] | None = next((n for n in fleet.get("nodes", []) if n.get("name") == name), None)
    if node is None:
        raise Failure(f"node {name!r} was removed meanwhile")
    if not node.get("drained"):
        raise Failure(f"node {name!r} was put back into service meanwhile")
    if not node.get("healthy"):
        reason = node.get("reason") or "does not answer"
        raise Failure(f"what is left on {name} cannot be told, as the gateway does not reach it: {reason}")
    return node


def _left(
    node: str, replica: Mapping[str, Any], staying: Set[str], explained: Callable[[str], Mapping[str, Any]]
) -> Left | None:
    model, in_flight = str(replica.get("model")), int(replica.get("in_flight") or 0)
    if replica.get("state") == "draining":
        return Left(model, "is being unloaded", True, in_flight)
    if replica.get("state") == "loading":
        return Left(model, f"is loading{f' ({progress})' if (progress := replica.get('progress')) else ''}", True)
    try:
        why, goes = prospect(node, staying, explained(model))
    except NotThere:  # it went between the two questions
        return None
    return Left(model, why, goes, in_flight)


def prospect(node: str, staying: Set[str], explained: Mapping[str, Any]) -> tuple[str, bool]:
    """Return what will become of a ready replica on the drained *node*, and whether it will go by itself.

    *staying* are the nodes that are not drained.
    """
    elsewhere = [replica["node"] for replica in explained.get("replicas", []) if replica["node"] in staying]
    if elsewhere:
        return f"goes, as it is ready on {', '.join(elsewhere)}", True
    plan = (explained.get("job") or {}).get("plan")
    if plan:
        return f"moves to {plan['node']}: {explained['job'].get('phase') or 'planned'}", True
    if not explained.get("catalogued"):
        return "stays: the catalogue does not have it, so no other node can load it", False
    others = [candidate for candidate in explained.get("candidates", []) if candidate["node"] != node]
    if not others:
        return "stays: there is no other node", False
    best = others[0]
    if best["verdict"] == "never":
        reasons = "; ".join(f"{other['node']}: {other['reason']}" for other in others)
        return f"stays: {reasons}", False
    return f"waits for {best['node']}: {best['reason']}{_setback(explained)}", True


def _setback(explained: Mapping[str, Any]) -> str:
    last = explained.get("last") or [{}]
    return f"; before that, {last[-1].get('reason')}" if last[-1].get("kind") in _SETBACKS else ""
