"""Owns what chores go by: how worn each node is, which replicas were renewed, and what is left alone for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set

from cortex.fleet.plan import Plan
from cortex.fleet.situation import Situation
from cortex.fleet.tend import Chore, chores
from cortex.fleet.view import FleetView, ReplicaView, Spot

# What nobody waits for is not loaded again so soon after a load of it failed, or found no room.
CHORE_PAUSE_SECONDS, CHORE_RETRY_SECONDS = 30.0, 5.0


class Upkeep:
    """Unloads by node since its replicas were last renewed, those that have been since, and models that rest."""

    def __init__(self) -> None:
        self._cycles: Counter[str] = Counter()
        self._renewed: set[Spot] = set()
        self._rests_until: dict[str, float] = {}

    def due(self, situation: Situation, waiting_since: Mapping[str, float]) -> list[Chore]:
        """Return the chores of this moment; *waiting_since* is when the first in each queue came."""
        return chores(situation, waiting_since=waiting_since, cycles=self._cycles, renewed=self._renewed)

    def rests(self, model: str, now: float) -> bool:
        """Whether no chore is done for *model* yet."""
        return now < self._rests_until.get(model, now)

    def rest(self, model: str, until: float) -> None:
        """Have no chore done for *model* before *until*."""
        self._rests_until[model] = until

    def wear(self, node: str) -> None:
        """Count an unload on *node*."""
        self._cycles[node] += 1

    def renew(self, spot: Spot) -> None:
        """Take the replica at *spot* for renewed, or for one that need not be."""
        self._renewed.add(spot)

    def count_anew(self, view: FleetView) -> None:
        """Begin to count anew on nodes all of whose replicas have been renewed."""
        for name in {spot[0] for spot in self._renewed}:
            node = view.by_name.get(name)
            if node is None or all(replica.spot in self._renewed for replica in node.replicas):
                self.forget_node(name)

    def forget_node(self, node: str) -> None:
        """Drop what was counted on a node that is gone, has begun anew, or is as good as new."""
        self._cycles.pop(node, None)
        self._renewed = {spot for spot in self._renewed if spot[0] != node}

    def forget_models(self, models: Set[str]) -> None:
        """Let *models* rest no longer: they are defined otherwise now."""
        self._rests_until = {model: at for model, at in self._rests_until.items() if model not in models}


def renewal(replica: ReplicaView, situation: Situation, reason: str) -> Plan:
    """Return the plan to unload *replica* and load it again: its victim is the replica itself."""
    return Plan(
        model=replica.model,
        node=replica.node,
        devices=tuple(sorted(replica.bytes_by_device)),
        bytes_by_device=dict(replica.bytes_by_device),
        victims=(replica.spot,),
        cost_seconds=situation.reload_seconds(replica.spot),
        blind=not replica.bytes_by_device,
        reason=reason,
    )
