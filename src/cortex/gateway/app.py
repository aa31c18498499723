"""Put a gateway together and run it: catalogue, poller, loads, relay, routes, metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
import httpx2
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex import __version__
from cortex.core.errors import ModelNotFound
from cortex.core.logging import get_logger
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig
from cortex.gateway.inference import Inference
from cortex.gateway.listing import describe_model, health, list_models
from cortex.gateway.loads import Loads
from cortex.gateway.metrics import Metrics
from cortex.gateway.poller import Poller
from cortex.gateway.relay import Relay
from cortex.gateway.upstream import Pool
from cortex.serving.application import error_handlers, json_response
from cortex.serving.exchange import Exchange
from cortex.serving.protocol import Drain, Site
from cortex.serving.run import Listener, bind, parse_address, run
from cortex.wire.openai import KINDS

log = get_logger(__name__)

FIRST_ROUND_SECONDS = 2.0


class CortexGateway:
    """Everything a running gateway owns; `lifespan` is its life."""

    def __init__(self, config: GatewayConfig, catalogue: Catalogue) -> None:
        self.config, self.catalogue = config, catalogue
        self.metrics = Metrics()
        self.created = int(time.time())
        self._pool = Pool(config.limits.connect_seconds)
        # Loads hold their connections for as long as they take; polls must not wait for one of those.
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(timeout=config.limits.poll_timeout_seconds, limits=limits, trust_env=False)
        self.poller = Poller(config.neurons, config.limits, self._client, self._pool.drop)
        self.drain = Drain()
        self.inference: Inference

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        """Live from the first look at the fleet to the last relayed byte."""
        async with self._client, anyio.create_task_group() as tasks:
            loads = Loads(self.poller, self._client, self.metrics, tasks)
            relay = Relay(self._pool, self.config.limits.stall_seconds)
            self.inference = Inference(self.catalogue, self.poller, loads, relay, self.metrics)
            self.metrics.observe(lambda: self.poller.view)
            await self.poller.first_round(FIRST_ROUND_SECONDS)
            tasks.start_soon(self.poller.run, name="poller")
            log.info(
                "gateway_ready",
                nodes=[node.name for node in self.poller.view.nodes if node.healthy],
                unhealthy=[node.name for node in self.poller.view.nodes if not node.healthy],
                models=len(self.catalogue.specs),
                version=__version__,
            )
            yield
            tasks.cancel_scope.cancel()
        self._pool.close()
        log.info("gateway_stopped")

    def application(self) -> Starlette:
        """Return everything that is not the data path."""
        routes = [
            Route("/", self.health, methods=["GET", "HEAD"]),
            Route("/health", self.health),
            Route("/metrics", self.prometheus),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
        ]
        return Starlette(routes=routes, lifespan=self.lifespan, exception_handlers=error_handlers())

    async def infer(self, exchange: Exchange) -> None:
        """Serve the data path."""
        await self.inference(exchange)

    async def health(self, _: Request) -> Response:
        """`GET /health` and `GET /`."""
        return json_response(health(self.poller.view, draining=self.drain.begun))

    async def prometheus(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`."""
        data = list_models(self.catalogue, self.poller.view, self.created)
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`, by id or alias."""
        name = request.path_params["model"]
        spec = self.catalogue.find(name)
        model = spec.id if spec is not None else name
        if spec is None and model not in self.poller.view.models:
            raise ModelNotFound(model, self.catalogue.near(model, self.poller.view.models))
        return json_response(describe_model(model, spec, self.poller.view, self.created))


def listeners_for(config: GatewayConfig, catalogue: Catalogue) -> Sequence[Listener]:
    """Bind both addresses and return what is served on them. Raises ConfigError."""
    api = bind(*parse_address(config.gateway.listen, "gateway.listen"), "gateway.listen")
    metrics = bind(*parse_address(config.gateway.metrics_listen, "gateway.metrics_listen"), "gateway.metrics_listen")
    gateway = CortexGateway(config, catalogue)
    metrics_only = Starlette(
        routes=[Route("/metrics", gateway.prometheus), Route("/", gateway.prometheus)],
        exception_handlers=error_handlers(),
    )
    return [
        Listener(api, Site(dict.fromkeys(KINDS, gateway.infer), gateway.application(), gateway.drain)),
        Listener(metrics, Site({}, metrics_only)),
    ]


def serve(config: GatewayConfig, catalogue: Catalogue) -> None:
    """Run a gateway until it is told to stop. Raises ConfigError when an address cannot be had."""
    listeners = listeners_for(config, catalogue)
    log.info("gateway_starting", listen=listeners[0].address, metrics=listeners[1].address, nodes=len(config.neurons))
    log.warning("eviction_not_built", strategy=config.eviction.strategy, effect="none: nothing is evicted yet")
    run(listeners, grace_seconds=config.limits.drain_seconds)
