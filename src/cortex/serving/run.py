"""Run sites until told to stop: bind first, serve, drain on the first signal, leave at once on the second."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import ssl
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import uvicorn

from cortex.core.errors import ConfigError
from cortex.core.logging import get_logger
from cortex.serving.protocol import HttpProtocol, Site, protocol_for
from cortex.serving.supervisor import Supervisor, supervisor_in

log = get_logger(__name__)


TICK_SECONDS = 0.05
CLOSE_SECONDS = 45.0  # for what follows a drain: a neuron unloads its models, and gives up one that will not go
MAX_DESCRIPTORS = 65_536
COLLECTED_AFTER_OBJECTS = 10_000


@dataclass(frozen=True)
class Listener:
    """A bound socket and what is served on it; by TLS if there is a context for it."""

    socket: socket.socket
    site: Site
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """The address as a client would write it."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str, key: str) -> tuple[str, int]:
    """Return host and port of `host:port`. Raises ConfigError naming *key*."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{key} = {text!r}: expected host:port, such as 127.0.0.1:31313")
    return host.strip("[]") or "0.0.0.0", int(port)


def bind(host: str, port: int, key: str) -> socket.socket:
    """Return a listening socket. Raises ConfigError that says what to do when the address is taken or not ours."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(2048)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        reason = f"{key}: cannot listen on {host}:{port}: {error.strerror or error}"
        raise ConfigError(f"{reason}; is another one running? Choose another port with {key}") from None
    bound.setblocking(False)
    return bound


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to `serve`, and says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(listeners: Sequence[Listener], *, grace_seconds: float, supervisor: Supervisor | None = None) -> None:
    """Serve all *listeners* until SIGTERM or SIGINT, then drain; the first one's lifespan spans the others.

    While it drains, the process still listens and tells its health, so that nobody takes it for dead; what has not
    ended after *grace_seconds*, or at a second signal, is cut short with an error. The *supervisor* hears when all of
    them serve, that the loop turns, and when it is asked to stop.
    """
    told = supervisor or Supervisor()
    servers = [_server(listener, lifespan=index == 0) for index, listener in enumerate(listeners)]
    asked, again = anyio.Event(), anyio.Event()

    def stop(name: str) -> None:
        log.info("stop_requested", signal=name, again=asked.is_set(), grace_seconds=grace_seconds)
        (again if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for sig in signals:
        loop.add_signal_handler(sig, stop, sig.name)
    try:
        async with anyio.create_task_group() as tasks:
            for server, listener in zip(servers[1:], listeners[1:], strict=True):
                tasks.start_soon(server.serve, [listener.socket])
            tasks.start_soon(_drain, servers, listeners, asked, again, grace_seconds, told)
            tasks.start_soon(_attend, servers, told, serving(listeners))
            await servers[0].serve([listeners[0].socket])
            tasks.cancel_scope.cancel()
    finally:
        for sig in signals:
            loop.remove_signal_handler(sig)


def serving(listeners: Sequence[Listener]) -> str:
    """Return what a supervisor shows of a process that serves *listeners*."""
    return f"Serving on {' and '.join(listener.address for listener in listeners)}"


async def _attend(servers: Sequence[_Server], supervisor: Supervisor, status: str) -> None:
    """Tell the supervisor when all *servers* are up, and from then on that the loop turns."""
    for server in servers:
        await server.up.wait()
    supervisor.ready(status)
    await supervisor.feed()


async def _drain(
    servers: Sequence[uvicorn.Server],
    listeners: Sequence[Listener],
    asked: anyio.Event,
    again: anyio.Event,
    grace_seconds: float,
    supervisor: Supervisor,
) -> None:
    """Wait for a signal, then for what is under way, then let the servers go."""
    await asked.wait()
    under_way = sum(len(server.server_state.tasks) for server in servers)
    supervisor.stopping(grace_seconds + CLOSE_SECONDS, f"Draining: {under_way} requests, {grace_seconds:g} s at most")
    for listener in listeners:
        listener.site.drain.begun = True
    with anyio.move_on_after(grace_seconds):
        while any(server.server_state.tasks for server in servers) and not again.is_set():
            await anyio.sleep(TICK_SECONDS)
    for server in servers:
        if server.server_state.tasks:
            log.warning("drain_cut_short", requests=len(server.server_state.tasks))
        for connection in list(server.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.cut()
        server.should_exit = True


def _server(listener: Listener, *, lifespan: bool) -> _Server:
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "proxy_headers": False, "ws": "none"}
    config = uvicorn.Config(
        listener.site.application,
        http=protocol_for(listener.site),
        lifespan="on" if lifespan else "off",
        timeout_graceful_shutdown=1,
        interface="asgi3",
        **settings,
    )
    config.load()
    config.ssl = listener.tls
    return _Server(config)


def _raise_descriptor_limit() -> None:
    """Allow as many connections as the system lets this process have; the usual soft limit is for interactive use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _spare_the_collector() -> None:
    """Keep the garbage collector from what is there for ever: looking through all of it would hold up every stream."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER_OBJECTS, 10, 10)


def run(listeners: Sequence[Listener], *, grace_seconds: float, supervisor: Supervisor | None = None) -> None:
    """Run `serve` on a fresh uvloop; the process's exit status is 0 after a signal.

    The *supervisor* is the one in the environment unless it was taken out of there already.
    """
    _raise_descriptor_limit()
    _spare_the_collector()
    told = supervisor or supervisor_in(os.environ, os.getpid())
    anyio.run(
        lambda: serve(listeners, grace_seconds=grace_seconds, supervisor=told), backend_options={"use_uvloop": True}
    )
