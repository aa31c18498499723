"""Put a gateway together and run it: configuration, nodes, poller, steward, relay, routes, metrics."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cortex import __version__
from cortex.core.errors import ModelNotFound
from cortex.core.logging import configure_log, get_logger
from cortex.core.quantities import bytes_of, seconds_of
from cortex.fleet.situation import Situation
from cortex.fleet.view import Spot
from cortex.gateway.access import Access, caller_of, check_listening, known_to
from cortex.gateway.catalogue import Catalogue, unknown_nodes
from cortex.gateway.config import GatewayConfig, NeuronAddress, key_file, node_token, state_directory
from cortex.gateway.control import Control
from cortex.gateway.dialect_routes import DialectRoutes, anthropic_model, anthropic_models, refuse_websocket
from cortex.gateway.dialects import PATHS, Dialects
from cortex.gateway.feed import Feed
from cortex.gateway.fleet_routes import FleetRoutes
from cortex.gateway.images import ImageFetcher
from cortex.gateway.inference import Inference
from cortex.gateway.joining.announcing import Announcer
from cortex.gateway.joining.joining import Joining
from cortex.gateway.joining.routes import JoinRoutes
from cortex.gateway.key_routes import KeyRoutes
from cortex.gateway.keys.caller import Caller
from cortex.gateway.keys.file import Keys
from cortex.gateway.listing import describe_model, health, list_models
from cortex.gateway.metrics import Metrics
from cortex.gateway.metrics.fleet import Scene
from cortex.gateway.nodes import Nodes
from cortex.gateway.ollama_routes import OllamaRoutes
from cortex.gateway.openapi import serve_document
from cortex.gateway.order_routes import OrderRoutes
from cortex.gateway.pins import Pins
from cortex.gateway.poller import Poller
from cortex.gateway.relay import Relay
from cortex.gateway.steward import Steward
from cortex.gateway.stored_responses import StoredResponses
from cortex.gateway.story import log_answered
from cortex.gateway.trace.journal import Journal
from cortex.gateway.trace.keeper import Keeper
from cortex.gateway.trace.otel import OtelExport
from cortex.gateway.trace.store import TraceStore
from cortex.gateway.trace_routes import TraceRoutes
from cortex.gateway.upstream import Pool
from cortex.gateway.watch import Watch
from cortex.gateway.web.routes import WebRoutes
from cortex.serving.application import error_handlers, json_response
from cortex.serving.exchange import Exchange
from cortex.serving.hosts import HostCheck, own_names
from cortex.serving.protocol import Drain, Site
from cortex.serving.run import Listener, bind, parse_address, run
from cortex.serving.supervisor import Supervisor, supervisor_in
from cortex.wire.joining import Joined, JoinRequest

log = get_logger(__name__)

FIRST_ROUND_SECONDS = 2.0


class CortexGateway:
    """Everything a running gateway owns; `lifespan` is its life.

    *state* is the directory for what operators told it, and what it has to remember. *path* is the file that *config*
    was read from: it is watched for edits, and the catalogue and the keys beside it; without one nothing is watched,
    and keys are looked for in *state*. The *supervisor* hears of reloads.
    """

    def __init__(
        self,
        config: GatewayConfig,
        catalogue: Catalogue,
        state: Path,
        path: Path | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.pins = Pins(state)
        self.config, self._written = config, catalogue
        self.catalogue = catalogue = self.pins.applied(catalogue)
        self.clock = time.monotonic
        self.created = int(time.time())
        self.journal, self.feed, self.drain = Journal(), Feed(), Drain()
        self.metrics = Metrics(self.journal)
        self.journal.follow(log_answered)
        self.keeper = self._make_keeper(state)
        self.nodes = Nodes(config.neurons, state)
        self.joining = Joining(state, self.nodes)
        limits, origin = config.limits, path or state / "cortex.toml"
        token = node_token(origin, config)
        self._pool = Pool(limits.connect_seconds, self.joining.secured)
        self.control = Control(Pool(limits.connect_seconds, self.joining.secured), token)
        self.poller = Poller(
            (), limits, self.control, on_lost=self._pool.drop, on_change=self._node_changed, clock=self.clock
        )
        self.steward = Steward(
            catalogue.specs,
            config.policy(),
            self.poller,
            self.control,
            self.metrics,
            self.keeper,
            self.feed,
            self.clock,
        )
        relay = Relay(self._pool, limits.stall_seconds, token)
        kept = config.responses
        self.responses = StoredResponses(
            state / "responses.db",
            ttl_seconds=seconds_of(kept.keep),
            limit=kept.max_responses,
            max_bytes=bytes_of(kept.max_bytes),
        )
        host, _ = parse_address(config.gateway.listen, "gateway.listen")
        self.access = Access(config.keys, key_file(origin, config), state / "ledger.db", host)
        dialects = Dialects(self.responses)
        images = config.images
        fetcher = ImageFetcher(bytes_of(images.max_bytes), images.timeout_seconds) if images.allow_urls else None
        self.inference = Inference(
            catalogue, self.access, dialects, self.steward, self.poller, relay, self.journal, self.feed, fetcher
        )
        self.metrics.observe(self._scene, lambda: self.catalogue.specs)
        self._supervisor = supervisor or Supervisor()
        self.watch: Watch | None = None
        if path is not None:
            self.watch = Watch(
                path,
                os.environ,
                config,
                self._written,
                on_config=self._config_changed,
                on_catalogue=self._catalogue_changed,
                keys=self.access.keys,
                key_file=self.access.key_file,
                on_keys=self.take_keys,
                on_nudged=self._reloaded,
            )

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        """Live from the first look at the fleet to the last relayed byte."""
        await self.access.start()
        self._follow_nodes()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.access.ledger.run, name="ledger")
            tasks.start_soon(self.journal.run, name="journal")
            if self.config.gateway.announce:
                address = parse_address(self.config.gateway.listen, "gateway.listen")
                tasks.start_soon(Announcer(self.joining, *address).run, name="announcer")
            tasks.start_soon(self.keeper.run, name="keeper")
            await self.poller.first_round(FIRST_ROUND_SECONDS)
            self.steward.start(tasks)
            tasks.start_soon(self.poller.run, name="poller")
            if self.watch is not None:
                tasks.start_soon(self.watch.run, name="watch")
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload, self.watch)
            self._tell_ready()
            yield
            tasks.cancel_scope.cancel()
        self._pool.close()
        self.control.close()
        self.responses.close()
        log.info("gateway_stopped")

    def _tell_ready(self) -> None:
        nodes = self.poller.view.nodes
        log.info(
            "gateway_ready",
            nodes=[node.name for node in nodes if node.healthy],
            unhealthy=[node.name for node in nodes if not node.healthy],
            models=len(self.catalogue.specs),
            version=__version__,
        )

    # what changes while it runs ---------------------------------------------------------------------------------------

    def _reload(self, watch: Watch) -> None:
        self._supervisor.reloading(time.monotonic_ns())
        watch.nudge()

    def _reloaded(self) -> None:
        refused = "; ".join(f"{file} is not in effect: {why}" for file, why in self.refused_edits.items())
        self._supervisor.ready(f"Serving; {refused or 'the files as they are now are in effect'}")

    def _node_changed(self, node: str) -> None:
        self.steward.changed(node)

    def _config_changed(self, config: GatewayConfig) -> None:
        self.config = config
        configure_log(config.gateway.log, config.gateway.log_format, os.environ)
        self.poller.limits = config.limits
        self.steward.reconciler.policy_changed(config.policy())
        self.nodes.configure(config.neurons)
        self._follow_nodes()

    def _catalogue_changed(self, written: Catalogue) -> None:
        self._written = written
        self.catalogue = self.inference.catalogue = self.pins.applied(written)
        self.steward.reconciler.catalogue_changed(self.catalogue.specs, self.clock())
        self._warn_of_unknown_nodes()

    async def take_keys(self, keys: Keys) -> None:
        """Put *keys* in force. Raises ConfigError."""
        await self.access.take(keys)
        self.metrics.keep_keys({entry.name for entry in keys.by_id.values()})

    def _follow_nodes(self) -> None:
        """Have the poller see the nodes that there are to be, and no others."""
        self.joining.follow(self.nodes.joined)
        self.poller.follow(self.nodes.addresses, self.nodes.drained)
        self._warn_of_unknown_nodes()

    def _warn_of_unknown_nodes(self) -> None:
        names = [node.name for node in self.nodes.addresses]
        for model, unknown in unknown_nodes(self.catalogue, names).items():
            log.warning("catalogue_names_unknown_nodes", model=model, nodes=list(unknown))

    @property
    def refused_edits(self) -> Mapping[str, str]:
        """Why edited files are not in effect, by path."""
        return self.watch.refusals if self.watch is not None else {}

    def add_node(self, name: str, endpoint: str) -> NeuronAddress:
        """Have one more node. Raises BadRequest."""
        node = self.nodes.add(name, endpoint)
        self._follow_nodes()
        return node

    def join_node(self, asked: JoinRequest, peer: str) -> Joined:
        """Let the node that *asked*, from the address *peer*, join. Raises what `Joining.admit` does."""
        joined = self.joining.admit(asked, peer)
        self._follow_nodes()
        return joined

    def remove_node(self, name: str) -> None:
        """Forget a node that was added or joined. Raises RouteNotFound, BadRequest.

        One that joined is connected to no more at once: its certificate is nobody's.
        """
        revoked = [node.address for node in self.nodes.joined if node.name == name]
        self.nodes.remove(name)
        self._follow_nodes()
        for address in revoked:
            self._pool.drop(address)

    def drain_node(self, name: str, *, drained: bool) -> None:
        """Take a node out of service, or put it back. Raises RouteNotFound."""
        (self.nodes.drain if drained else self.nodes.undrain)(name)
        self._follow_nodes()

    def pin_model(self, model: str, *, pinned: bool) -> None:
        """Have the model with the id *model* stay, or let it go again. Raises BadRequest, ServiceError."""
        (self.pins.pin if pinned else self.pins.unpin)(self._written.specs[model])
        self._catalogue_changed(self._written)

    # what is not the data path ----------------------------------------------------------------------------------------

    def site(self) -> Site:
        """Return what is served to clients and operators."""
        return Site(dict.fromkeys(PATHS, self.inference), self.application(), self.drain, self._look)

    def _look(self, exchange: Exchange) -> None:
        """Judge a request before anything else does. Raises what refuses it."""
        self.access.look(exchange)
        refuse_websocket(exchange)

    def metrics_site(self) -> Site:
        """Return what is served on the metrics' own port, where nobody asks for a key."""
        host, _ = parse_address(self.config.gateway.metrics_listen, "gateway.metrics_listen")
        routes = [Route("/metrics", self.prometheus), Route("/", self.prometheus)]
        allowed = self.config.keys.allowed_hosts
        check = HostCheck(host, own_names() if allowed is None else allowed)
        return Site({}, Starlette(routes=routes, exception_handlers=error_handlers()), check=check)

    def application(self) -> ASGIApp:
        """Return everything that is not the data path, behind the guard."""
        routes = [
            Route("/", self.health, methods=["GET", "HEAD"]),
            Route("/health", self.health),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", serve_document),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            *FleetRoutes(self).table(),
            *OrderRoutes(self).table(),
            *JoinRoutes(self).table(),
            *TraceRoutes(self).table(),
            *KeyRoutes(self).table(),
            *DialectRoutes(self).table(),
            *OllamaRoutes(self).table(),
            *WebRoutes(self).table(),
        ]
        application = Starlette(routes=routes, lifespan=self.lifespan, exception_handlers=error_handlers())
        application.router.redirect_slashes = False  # to an address that the client made up, if it were
        return self.access.guarded(application)

    async def health(self, _: Request) -> Response:
        """`GET /health` and `GET /`."""
        return json_response(health(self.poller.view, draining=self.drain.begun, refused_edits=self.refused_edits))

    async def prometheus(self, request: Request) -> Response:
        """`GET /metrics`."""
        text, content_type = self.metrics.exposition(request.headers.get("accept"))
        return Response(text, headers={"content-type": content_type})

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: what the caller may use, in Anthropic's shape for those who speak its dialect."""
        data = self.listed(caller_of(request))
        if "anthropic-version" in request.headers:
            return anthropic_models(data, request)
        return json_response({"object": "list", "data": data})

    def listed(self, caller: Caller) -> list[dict[str, Any]]:
        """Return the models that *caller* may use, as `/v1/models` lists them."""
        listed = list_models(self.catalogue, self.poller.view, self.created, self._situation())
        return [entry for entry in listed if caller.allows((entry["id"], *entry["aliases"]))]

    def described(self, name: str, caller: Caller) -> dict[str, Any]:
        """Return the model that *name*, an id or an alias, means. Raises PermissionDenied, ModelNotFound."""
        spec, view = self.catalogue.find(name), self.poller.view
        model = spec.id if spec is not None else name
        caller.require_model((name, model, *(spec.aliases if spec is not None else ())))
        if spec is None and model not in view.models:
            raise ModelNotFound(model, known_to(caller, self.catalogue.near(model, view.models)))
        return describe_model(model, spec, view, self.created, self._situation())

    def _make_keeper(self, state: Path) -> Keeper:
        settings = self.config.trace
        store = TraceStore(state / "traces.db", keep=settings.keep, history_seconds=seconds_of(settings.history))
        keeper = Keeper(self.journal, store, settings.keep)
        keeper.observe(self._busy, self._progress)
        if settings.otlp_endpoint is not None:
            export = OtelExport(settings.otlp_endpoint)
            keeper.follow(export.send, export.close)
        return keeper

    def _busy(self) -> tuple[int, int]:
        """Return how many requests wait, and how many are under way."""
        doors = self.steward.reconciler.doors
        return sum(len(doors.waiting(model)) for model in doors.waiting_since()), doors.flights.total()

    def _progress(self, spot: Spot) -> str:
        """Return how far the load at *spot* is."""
        node = self.poller.view.by_name.get(spot[0])
        replica = node.models.get(spot[1]) if node is not None else None
        return replica.progress if replica is not None else ""

    def _scene(self) -> Scene:
        return Scene(self.clock(), self.poller.view, self.steward.reconciler.doors, self.poller.readings)

    def _situation(self) -> Situation:
        return self.steward.reconciler.situation(self.clock())

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`, by id or alias."""
        entry = self.described(request.path_params["model"], caller_of(request))
        return anthropic_model(entry) if "anthropic-version" in request.headers else json_response(entry)


def listeners_for(
    config: GatewayConfig, catalogue: Catalogue, path: Path, supervisor: Supervisor | None = None
) -> Sequence[Listener]:
    """Bind both addresses and return what is served on them. Raises ConfigError."""
    host, port = parse_address(config.gateway.listen, "gateway.listen")
    check_listening(config.keys, key_file(path, config), host)
    api = bind(host, port, "gateway.listen")
    metrics = bind(*parse_address(config.gateway.metrics_listen, "gateway.metrics_listen"), "gateway.metrics_listen")
    gateway = CortexGateway(config, catalogue, state_directory(path, config, os.environ), path, supervisor)
    return [Listener(api, gateway.site()), Listener(metrics, gateway.metrics_site())]


def serve(config: GatewayConfig, catalogue: Catalogue, path: Path) -> None:
    """Run a gateway until it is told to stop. Raises ConfigError when an address cannot be had."""
    supervisor = supervisor_in(os.environ, os.getpid())
    listeners = listeners_for(config, catalogue, path, supervisor)
    log.info("gateway_starting", listen=listeners[0].address, metrics=listeners[1].address, nodes=len(config.neurons))
    run(listeners, grace_seconds=config.limits.drain_seconds, supervisor=supervisor)
