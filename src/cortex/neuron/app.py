"""Put a neuron together and run it: devices, readings, models, routes, preload, drain."""

from __future__ import annotations

import os
import platform
import re
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points

import anyio
from starlette.applications import Starlette

from cortex import __version__
from cortex.core.logging import get_logger
from cortex.neuron.activation import Preload
from cortex.neuron.config import NeuronConfig
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.generation import Generation
from cortex.neuron.metrics import Metrics
from cortex.neuron.models import Models
from cortex.neuron.readings import Readings
from cortex.neuron.routes import NodeRoutes
from cortex.serving.protocol import Drain, Site
from cortex.serving.run import Listener, bind, run
from cortex.wire.node_api import Discovery, Health
from cortex.wire.openai import KINDS

log = get_logger(__name__)


class Neuron:
    """Everything a running neuron owns; `lifespan` is its life."""

    def __init__(self, config: NeuronConfig) -> None:
        self.config = config
        self.boot_id = secrets.token_hex(8)
        self.engines = installed_engines(config)
        self.drain = Drain()
        self._born = time.monotonic()
        probes = all_probes(config.simulated_devices)
        self.discovery: Discovery = discover(
            config.simulated_devices, boot_id=self.boot_id, engines=self.engines, probes=lambda _: probes
        )
        self.readings = Readings(self.discovery.devices, probes)
        self.metrics = Metrics()
        self.models: Models
        self.preload: Preload

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        """Live from the first reading to the last unload."""
        await self.readings.refresh()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.readings.run, name="readings")
            async with anyio.create_task_group() as replicas:
                self.models = Models(self.config, self.discovery.devices, self.engines, self.readings, replicas)
                self.metrics.observe(self.readings.devices, self.models.describe)
                self.preload = Preload(self.models, self.config.default_models)
                tasks.start_soon(self.preload.run, name="preload")
                log.info(
                    "neuron_ready",
                    devices=[device.name for device in self.discovery.devices],
                    engines=self.engines,
                    boot_id=self.boot_id,
                    version=__version__,
                )
                yield
                self.preload.state.state = "draining"
                with anyio.CancelScope(shield=True):
                    await self.models.close()
            tasks.cancel_scope.cancel()
        log.info("neuron_stopped")

    def health(self) -> Health:
        """Return the node's state from cached readings; nothing here touches a device."""
        activation = self.preload.state
        return Health(
            status="draining" if self.drain.begun else activation.state,
            boot_id=self.boot_id,
            uptime_secs=round(time.monotonic() - self._born, 3),
            readings_age_seconds=round(self.readings.age_seconds(time.monotonic()), 3),
            devices=self.readings.devices(),
            activation=activation,
            models=self.models.describe(),
        )


def installed_engines(config: NeuronConfig) -> list[str]:
    """Return the engines this node offers: those of `[[harnesses]]`, else every one that is installed."""
    known = sorted(entry.name for entry in entry_points(group="cortex.engines") if _is_complete(entry))
    if not config.harnesses:
        return known
    for harness in config.harnesses:
        if harness.name not in known:
            log.warning("engine_unknown", name=harness.name, known=known)
    return [name for name in known if any(harness.name == name for harness in config.harnesses)]


def _is_complete(entry: EntryPoint) -> bool:
    """Whether the packages of the extra called like the engine are there; nothing of them is imported here."""
    requires = (entry.dist.requires or []) if entry.dist is not None else []
    needed = [line for line in requires if re.search(rf"extra == ['\"]{entry.name}['\"]", line)]
    names = [match[0] for line in needed if (match := re.match(r"[A-Za-z0-9._-]+", line))]
    try:
        return all(distribution(name) for name in names)
    except PackageNotFoundError:
        return False


def listeners_for(config: NeuronConfig) -> Sequence[Listener]:
    """Bind the neuron's address and return what is served on it. Raises ConfigError."""
    bound: socket.socket = bind(config.host, config.port, "port")
    neuron = Neuron(config)
    routes = NodeRoutes(neuron)
    application = Starlette(routes=routes.table(), lifespan=neuron.lifespan, exception_handlers=routes.errors())

    async def generate(exchange: object) -> None:
        await Generation(neuron.models, neuron.metrics)(exchange)  # type: ignore[arg-type]

    site = Site(dict.fromkeys(KINDS, generate), application, neuron.drain)
    return [Listener(bound, site)]


def serve(config: NeuronConfig) -> None:
    """Run a neuron until it is told to stop. Raises ConfigError when the address cannot be had."""
    listeners = listeners_for(config)
    log.info(
        "neuron_starting",
        address=listeners[0].address,
        pid=os.getpid(),
        version=__version__,
        python=platform.python_version(),
        cache=str(config.cache),
    )
    run(listeners, grace_seconds=config.limits.drain_seconds)
