"""Put a neuron together and run it: devices, readings, models, routes, preload, drain."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette

from cortex import __version__
from cortex.core.logging import get_logger
from cortex.neuron.activation import Preload
from cortex.neuron.config import NeuronConfig, node_token
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.door import Door, open_to_others
from cortex.neuron.generation import Generation
from cortex.neuron.identity import Identity, kept_identity, listen_host
from cortex.neuron.installed import installed_engines, missing_backends, probe_engines
from cortex.neuron.metrics import Metrics
from cortex.neuron.models import Models
from cortex.neuron.readings import Readings
from cortex.neuron.routes import NodeRoutes
from cortex.serving.exchange import shielding
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
        probes = all_probes(config.simulated_devices, config.cpu_devices)
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
        await self._probe_engines()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.readings.run, name="readings")
            async with anyio.create_task_group() as replicas:
                self.models = Models(self.config, self.discovery, self.readings, replicas)
                self.metrics.observe(self.models.devices, self.models.describe)
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

    async def _probe_engines(self) -> None:
        """Learn what the engines can compute on; one that does not start is not offered."""
        found = await probe_engines(self.engines, self.config.limits.heartbeat_seconds)
        self.engines[:] = found
        self.discovery.engines = self.discovery.harnesses = list(found)
        self.discovery.engine_devices = {name: list(engine.kinds) for name, engine in found.items()}
        self.discovery.engine_versions = {name: engine.version for name, engine in found.items() if engine.version}
        for warning in missing_backends(self.discovery.engine_devices, self.discovery.devices):
            log.warning("engine_lacks_backend", reason=warning)
            self.discovery.warnings.append(warning)

    def health(self) -> Health:
        """Return the node's state from cached readings; nothing here touches a device."""
        activation = self.preload.state
        return Health(
            status="draining" if self.drain.begun else activation.state,
            boot_id=self.boot_id,
            uptime_secs=round(time.monotonic() - self._born, 3),
            readings_age_seconds=round(self.readings.age_seconds(time.monotonic()), 3),
            devices=self.models.devices(),
            activation=activation,
            models=self.models.describe(),
            cycles=self.models.cycles,
        )


def listeners_for(config: NeuronConfig) -> Sequence[Listener]:
    """Bind the neuron's address and return what is served on it. Raises ConfigError."""
    token, identity = node_token(config), kept_identity(config.state_directory)
    host = listen_host(config.host, identity)
    bound: socket.socket = bind(host, config.port, "port")
    if identity is not None:
        _tell_identity(identity, config)
    elif open_to_others(host, token):
        log.warning("neuron_is_open", host=host, reason="anybody who reaches it may use it; join, or set a token_file")
    neuron = Neuron(config)
    routes = NodeRoutes(neuron)
    application = Starlette(routes=routes.table(), lifespan=neuron.lifespan, exception_handlers=routes.errors())
    application.router.redirect_slashes = False

    async def generate(exchange: object) -> None:
        await Generation(neuron.models, neuron.metrics, config.limits)(exchange)  # type: ignore[arg-type]

    door = Door(host, token, config.allowed_hosts, has_joined=identity is not None)
    site = Site(dict.fromkeys(KINDS, shielding(generate)), application, neuron.drain, door)
    return [Listener(bound, site, identity.context() if identity is not None else None)]


def _tell_identity(identity: Identity, config: NeuronConfig) -> None:
    log.info("neuron_has_joined", gateway=identity.gateway, node=identity.name, serves="its gateway alone, by TLS")
    if identity.port != config.port:
        reason = "the gateway was told another port; serve on that one, or join again"
        log.warning("joined_by_another_port", port=config.port, told=identity.port, reason=reason)


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
