"""Owns what a gateway learned of loading: what each model takes on each node, and how long a load lasts there."""

from __future__ import annotations

from collections.abc import Iterable

from cortex.fleet.situation import UNKNOWN, Need
from cortex.fleet.view import ReplicaView, Spot


class Learned:
    """Needs by spot, and which were asked for; load times by spot, and their means by model."""

    def __init__(self) -> None:
        self._needs: dict[Spot, Need] = {}
        self._asked: set[Spot] = set()
        self.load_seconds: dict[Spot, float] = {}
        self.mean_load_seconds: dict[str, float] = {}
        self._loads: dict[str, tuple[int, float]] = {}

    def need(self, model: str, node: str) -> Need:
        """Return what *model* takes on *node*."""
        return self._needs.get((node, model), UNKNOWN)

    def knows(self, spot: Spot) -> bool:
        """Whether the node has said what the model takes there, be it that it cannot tell."""
        return spot in self._needs

    def ask(self, spot: Spot) -> bool:
        """Return whether the node is to be asked; True once for each spot."""
        first = spot not in self._asked
        self._asked.add(spot)
        return first

    def needs(self, spot: Spot, need: Need) -> None:
        """Remember what a node said."""
        self._needs[spot] = need

    def forget(self, spots: Iterable[Spot]) -> None:
        """Have what is needed at *spots* asked for again."""
        for spot in spots:
            self._needs.pop(spot, None)
            self._asked.discard(spot)

    def forget_models(self, models: Iterable[str]) -> None:
        """Have what *models* need asked for again: they are defined otherwise now."""
        changed = set(models)
        self.forget([spot for spot in {*self._needs, *self._asked} if spot[1] in changed])

    def forget_node(self, node: str) -> None:
        """Have everything about *node* asked for again: it may have other devices, engines and files now."""
        self.forget([spot for spot in {*self._needs, *self._asked} if spot[0] == node])

    def took(self, spot: Spot, seconds: float) -> None:
        """Remember how long a load lasted."""
        count, total = self._loads.get(spot[1], (0, 0.0))
        former = self.load_seconds.get(spot)
        count, total = (count + 1, total + seconds) if former is None else (count, total + seconds - former)
        self.load_seconds[spot], self._loads[spot[1]] = seconds, (count, total)
        self.mean_load_seconds[spot[1]] = total / count

    def heard(self, replica: ReplicaView) -> None:
        """Take a node's word for how long a load lasted that was not ours."""
        if replica.load_seconds is not None and replica.spot not in self.load_seconds:
            self.took(replica.spot, replica.load_seconds)
