"""What the gateway counts and shows, under the original's names where it had them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cortex import __version__
from cortex.core.metrics import gauge
from cortex.gateway.metrics import families as of
from cortex.gateway.metrics.fleet import Scene, fleet_gauges
from cortex.gateway.metrics.requests import UNKNOWN_MODEL, Sums
from cortex.gateway.trace.journal import Journal


class Metrics(Collector):
    """The gateway's registry. What is gone from the fleet is gone from here the next time that anybody asks.

    *scene* tells how the fleet is now, *models* which models are in the catalogue.
    """

    def __init__(self, journal: Journal) -> None:
        self.registry = CollectorRegistry()
        self._journal, self._sums = journal, Sums()
        self._scene: Callable[[], Scene] | None = None
        self._models: Callable[[], Collection[str]] = tuple
        self.decided, self.keep_keys = self._sums.decided, self._sums.keep_keys
        journal.follow(self._sums.count)
        self.registry.register(self)

    def observe(self, scene: Callable[[], Scene], models: Callable[[], Collection[str]]) -> None:
        """Show *scene* as gauges, and count for nothing but what is in it and the catalogue's *models*."""
        self._scene, self._models = scene, models

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is, is known when it is collected."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return every family as it is now."""
        self._journal.drain()
        self._sums.dropped(self._journal.dropped)
        gauges: Iterable[Metric] = ()
        if self._scene is not None:
            scene = self._scene()
            self._forget(scene)
            gauges = fleet_gauges(scene)
        return [*self._sums.collect(), *gauges, gauge(of.INFO, [((__version__,), 1.0)])]

    def _forget(self, scene: Scene) -> None:
        models = {*self._models(), *scene.view.models, UNKNOWN_MODEL}
        self._sums.keep(scene.view.by_name.keys(), models.__contains__)

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """Return the text and its content type: OpenMetrics for those who *accept* it, else Prometheus's own."""
        encode, content_type = choose_encoder(accept or "")
        return encode(self.registry), content_type
