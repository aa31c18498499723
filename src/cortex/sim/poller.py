"""Owns what the gateway thinks of the simulated nodes: asked on their turns, answered late, lost after some misses.

A turn at which nothing could look otherwise is left out: it would change nothing, and most are such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cortex.fleet.view import FleetView, NodeView
from cortex.sim.agenda import Agenda
from cortex.sim.description import Delays, Limits
from cortex.sim.node import Node

# As the gateway spreads its turns: multiples of the golden ratio lie evenly in the unit interval.
_GOLDEN = 0.6180339887498949


@dataclass(eq=False, slots=True)
class _Known:
    node: Node
    phase: float
    view: NodeView
    drained: bool = False
    misses: int = 0
    is_due: bool = False


class Poller:
    """Owns the view; `on_change` is called with the name of a node after each change of it."""

    def __init__(
        self,
        agenda: Agenda,
        nodes: Mapping[str, Node],
        limits: Limits,
        delays: Delays,
        on_change: Callable[[str], None],
    ) -> None:
        self.view = FleetView.of(node.view(0.0, drained=False) for node in nodes.values())
        self._agenda, self._limits, self._delays, self._on_change = agenda, limits, delays, on_change
        self._known = {
            name: _Known(node, (turn * _GOLDEN) % 1.0, self.view.node(name))
            for turn, (name, node) in enumerate(nodes.items())
        }

    def disturb(self, name: str) -> None:
        """Something about the node called *name* is not as it was seen last: ask at its next turn."""
        known = self._known[name]
        if not known.is_due:
            known.is_due = True
            interval, now = self._limits.poll_seconds, self._agenda.now
            self._agenda.at(now + interval - (now - known.phase * interval) % interval, self._take_turn, known)

    def look(self, name: str, then: Callable[[str], None] | None = None) -> None:
        """Ask the node called *name* now, and call *then* when it has answered, or has not."""
        known = self._known[name]
        answer = known.node.view(self._agenda.now, drained=False) if known.node.is_up else None
        self._agenda.after(self._delays.answer_seconds, self._hear, known, answer, then)

    def set_drained(self, name: str, drained: bool) -> None:
        """Take the node called *name* out of service, or back."""
        known = self._known[name]
        known.drained = drained
        self._set(known, replace(known.view, drained=drained))

    def _take_turn(self, known: _Known) -> None:
        known.is_due = False
        self.look(known.node.name)

    def _hear(self, known: _Known, answer: NodeView | None, then: Callable[[str], None] | None) -> None:
        if answer is not None:
            known.misses = 0
            self._set(known, replace(answer, drained=known.drained) if known.drained else answer)
        else:
            known.misses += 1
            if known.misses == self._limits.misses:
                reason = "does not answer: the connection was refused"
                self._set(known, replace(known.view, healthy=False, reason=reason, rooms=(), replicas=()))
        if known.node.is_restless or (not known.node.is_up and known.misses < self._limits.misses):
            self.disturb(known.node.name)
        if then is not None:
            then(known.node.name)

    def _set(self, known: _Known, view: NodeView) -> None:
        known.view = view
        self.view = self.view.with_node(view)
        self._on_change(view.name)
