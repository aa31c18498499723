"""Owns what is there: the view of the fleet, and beside it who is leaving, who restarts, others' requests."""

from __future__ import annotations

from collections.abc import Mapping

from cortex.fleet.situation import Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot


class Presence:
    """The view, and by spot or node what goes with it.

    `leaving` are spots that are being unloaded, with the time at which that was done, None before; `foreign` counts
    the requests that others had at a spot when its node was last seen; `restarting` are nodes that said that they
    would be back, and when.
    """

    def __init__(self) -> None:
        self.view = FleetView()
        self.leaving: dict[Spot, float | None] = {}
        self.foreign: dict[Spot, int] = {}
        self.restarting: dict[str, float] = {}
        self._ready: dict[str, tuple[tuple[ReplicaView, ...], tuple[ReplicaView, ...]]] = {}

    def ready(self, model: str) -> tuple[ReplicaView, ...]:
        """Return the replicas that may be given work; kept until the view of them or what is leaving changes."""
        there = self.view.by_model.get(model)
        if there is None:
            return ()
        known = self._ready.get(model)
        if known is None or known[0] is not there:
            ready = Situation(0.0, self.view, leaving=self.leaving.keys()).ready(model)
            known = self._ready[model] = (there, ready)
        return known[1]

    def replica(self, spot: Spot) -> ReplicaView | None:
        """Return the replica at *spot*, whatever its state."""
        node = self.view.by_name.get(spot[0])
        return node.models.get(spot[1]) if node is not None else None

    def coming(self, model: str) -> ReplicaView | None:
        """Return a replica of *model* that is loading, on whoever's word."""
        return next((replica for replica in self.view.replicas_of(model) if replica.state == "loading"), None)

    def show(self, view: FleetView, node: str) -> None:
        """Go by *view* from now on, in which *node* has changed."""
        before, after = self.view.by_name.get(node), view.by_name.get(node)
        self.view = view
        if before is None or after is None or before.drained != after.drained:
            self._ready.clear()

    def take_in(self, node: NodeView, now: float, flights: Mapping[Spot, int]) -> None:
        """Learn from an answer of *node*; *flights* are the requests that this gateway has at each spot."""
        if node.leaving:
            self.restarting.setdefault(node.name, now)
        elif node.healthy:
            self.restarting.pop(node.name, None)
        for replica in node.replicas:
            others = replica.in_flight + replica.queued - flights.get(replica.spot, 0)
            self.foreign.pop(replica.spot, None)
            if others > 0:
                self.foreign[replica.spot] = others
        for spot, at in list(self.leaving.items()):
            if spot[0] == node.name and at is not None and (node.seen_at >= at or spot[1] not in node.models):
                self.stays(spot)

    def leaves(self, spot: Spot) -> None:
        """Give the replica at *spot* no more work."""
        self.leaving[spot] = None
        self._ready.pop(spot[1], None)

    def gone(self, spot: Spot, now: float) -> None:
        """Take *spot* for unloaded; it leaves until its node is seen without it."""
        self.leaving[spot] = now

    def stays(self, spot: Spot) -> None:
        """Take *spot* for what the view shows of it, no longer for something on its way out."""
        self.leaving.pop(spot, None)
        self._ready.pop(spot[1], None)

    def forget_node(self, node: str) -> None:
        """Drop what was known of a node that is gone or has begun anew."""
        self.restarting.pop(node, None)
        for spot in [spot for spot in self.foreign if spot[0] == node]:
            del self.foreign[spot]
        for spot in [spot for spot, at in self.leaving.items() if spot[0] == node and at is not None]:
            self.stays(spot)
