"""Nodes whose answers are scripted, and a gateway in front of them, all in one event loop.

A `FakeNode` speaks HTTP as well, or as badly, as a test wants; what a test does not script is answered as by a healthy
node that has the model `m`. The gateway is the real one, on a real socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx2
from starlette.applications import Starlette
from structlog.testing import capture_logs

from cortex.core.model_spec import ModelSpec
from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig, KeySettings, Limits, NeuronAddress
from cortex.serving.protocol import protocol_for
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.errors import DONE
from cortex.wire.openai import CHAT, KINDS
from cortex.wire.sse import Trailer, data_event, encode_trailer, trailer_event

SOON_SECONDS = 5.0
GIB = 1 << 30
TRAILER = Trailer(Usage(7, 3, 2), Timings(queue_ms=5, prefill_ms=20, decode_ms=100), "stop")
EVENTS = b"".join(
    data_event(b'{"choices":[{"delta":{"content":"%b"}}]}' % word) for word in (b"one", b"two", b"\xc3\xa4")
)
STREAM = EVENTS + DONE
WHOLE = b'{"object":"chat.completion",  "choices": [], "x":1.0}'

T = TypeVar("T")


async def soon(what: Awaitable[T]) -> T:
    """Return what *what* gives, or fail: nothing here takes long."""
    return await asyncio.wait_for(what, SOON_SECONDS)


async def until(true: Callable[[], object]) -> None:
    """Return once *true* holds; each look follows a turn of the loop."""
    async with asyncio.timeout(SOON_SECONDS):
        while not true():
            await asyncio.sleep(0.001)


class Call:
    """One end of a connection with a request on it; at a node, the request and the means to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.method = self.path = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    async def read(self) -> bool:
        """Read the request; False if the connection ended instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *rest = head.decode("latin-1").split("\r\n")[:-2]
        self.method, self.path, _ = first.split(" ")
        self.headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in rest)]
        self.body = await self.reader.readexactly(int(dict(self.headers).get("content-length", "0")))
        return True

    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def respond(self, status: int, body: bytes | Any = b"", **headers: str) -> None:
        """Answer at once; a body that is no bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content_type": "application/json", "content_length": str(len(raw)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        await self.send(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + raw)

    async def refuse(self, status: int, code: str | None, message: str = "no", **headers: str) -> None:
        """Answer an error in the envelope."""
        error = {"message": message, "type": "server_error", "code": code, "param": None}
        await self.respond(status, {"error": error}, **headers)

    async def open_events(self, extra: bytes = b"") -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n" + extra + b"\r\n"
        )

    async def events(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def close_events(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def answer(self) -> None:
        """Answer as a healthy node does, streamed or whole as the request wants it."""
        if self.json().get("stream"):
            await self.open_events()
            await self.events(STREAM + trailer_event(TRAILER))
            await self.close_events()
        else:
            await self.respond(200, WHOLE, x_cortex_trailer=encode_trailer(TRAILER).decode())

    def hang_up(self) -> None:
        self.writer.close()

    def half_close(self) -> None:
        self.writer.write_eof()

    def reset(self) -> None:
        """End the connection with a RST."""
        plain: socket.socket = self.writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def caller_left(self) -> None:
        """Return when the gateway has closed the connection."""
        try:
            assert await soon(self.reader.read(1)) == b""
        except ConnectionError:
            pass


Script = Callable[[Call], Awaitable[None]]


class FakeNode:
    """A node on loopback: `scripts` by path, for what differs from a healthy one."""

    def __init__(self, name: str, models: Mapping[str, str]) -> None:
        self.name, self.models = name, dict(models)
        self.boot_id, self.status, self.free_bytes = "boot-1", "ready", 8 * GIB
        self.scripts: dict[str, Script] = {
            "/health": lambda call: call.respond(200, self.health()),
            "/discovery": lambda call: call.respond(200, self.discovery()),
            "/models": lambda call: call.respond(200, self.health()["models"]),
            "/models/load": self.load,
            "/models/unload": self.unload,
            "/models/estimate": lambda call: call.respond(200, {"model_id": call.json()["id"]}),
            **dict.fromkeys(KINDS, Call.answer),
        }
        self.calls: list[Call] = []
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away: what is open is reset, and nobody listens."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def asked(self, path: str = CHAT) -> list[Call]:
        """The calls of *path*, in order."""
        return [call for call in self.calls if call.path == path]

    async def call(self, path: str = CHAT, number: int = 1) -> Call:
        """Return the *number*-th call of *path*, waiting for it."""
        await until(lambda: len(self.asked(path)) >= number)
        return self.asked(path)[number - 1]

    def script(self, script: Script, path: str = CHAT) -> None:
        self.scripts[path] = script

    def health(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "boot_id": self.boot_id,
            "uptime_secs": 1.0,
            "readings_age_seconds": 0.1,
            "devices": [{"index": 0, "memory_used_bytes": 0, "memory_free_bytes": self.free_bytes}],
            "activation": {"state": "ready"},
            "models": [
                {"id": model, "engine": "llamacpp", "status": state, "slots": 4} for model, state in self.models.items()
            ],
        }

    def discovery(self) -> dict[str, Any]:
        return {
            "hostname": self.name,
            "os": "linux",
            "kernel": "6",
            "boot_id": self.boot_id,
            "version": "0",
            "devices": [{"index": 0, "name": "CPU", "kind": "cpu", "memory_total_bytes": 16 * GIB}],
            "engines": ["llamacpp"],
        }

    async def load(self, call: Call) -> None:
        self.models[call.json()["id"]] = "ready"
        await call.respond(200, {})

    async def unload(self, call: Call) -> None:
        self.models.pop(call.json()["model_id"])
        await call.respond(200, {})

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await (call := Call(reader, writer)).read():
                self.calls.append(call)
                await self.scripts[call.path](call)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the gateway went, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


class Gateway:
    """A running gateway, and a client of it."""

    def __init__(self, cortex: CortexGateway, state: Any, port: int, client: httpx2.AsyncClient) -> None:
        self.cortex, self.state, self.port, self._client = cortex, state, port, client
        self.url = f"http://127.0.0.1:{port}"
        self.bare: list[asyncio.StreamWriter] = []
        self.state_directory = Path()

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await soon(self._client.get(self.url + path, headers=_dashed(headers)))

    async def delete(self, path: str, **headers: str) -> httpx2.Response:
        return await soon(self._client.delete(self.url + path, headers=_dashed(headers)))

    async def post(self, body: bytes, path: str = CHAT, **headers: str) -> httpx2.Response:
        return await soon(self._client.post(self.url + path, content=body, headers=_headers(headers)))

    @asynccontextmanager
    async def stream(self, body: bytes, path: str = CHAT, **headers: str) -> AsyncGenerator[httpx2.Response, None]:
        """Send a request and yield its answer once the head is there; leaving the block hangs up."""
        async with self._client.stream("POST", self.url + path, content=body, headers=_headers(headers)) as answer:
            yield answer

    async def connect(self, body: bytes, *, version: bytes = b"1.1") -> Call:
        """Send a request on a bare connection whose reader takes little at a time."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=plain)
        self.bare.append(writer)
        head = b"POST %b HTTP/%b\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), version, len(body))
        writer.write(head + body)
        return Call(reader, writer)

    async def idle(self) -> None:
        """Return when no request is under way, and all that ended has been told."""
        await until(lambda: not self.state.tasks)
        self.cortex.journal.drain()

    async def sample(self, name: str, **labels: str) -> float:
        """Return a figure of `/metrics`; 0 if it is not there."""
        await self.idle()
        return self.cortex.metrics.registry.get_sample_value(name, labels) or 0.0


class FakeFleet:
    """Starts nodes and gateways, and ends them when the test is over."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.nodes: list[FakeNode] = []
        self.logs: list[Any] = []

    async def __aenter__(self) -> FakeFleet:
        self.logs = self._stack.enter_context(capture_logs())
        self._client = await self._stack.enter_async_context(httpx2.AsyncClient(trust_env=False, verify=False))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        assert [line for line in self.logs if line["event"] == "request_crashed"] == []

    def events(self, name: str) -> list[Any]:
        return [line for line in self.logs if line["event"] == name]

    async def node(self, name: str = "a", **models: str) -> FakeNode:
        """Start a node that has *models* in these states; `m`, ready, unless told otherwise."""
        node = FakeNode(name, models or {"m": "ready"})
        await node.start()
        self._stack.push_async_callback(node.stop)
        self.nodes.append(node)
        return node

    async def gateway(self, *specs: ModelSpec, keys: KeySettings | None = None, **limits: float) -> Gateway:
        """Start a gateway in front of the nodes there are; it looks at them once, and then when it has a reason."""
        bounds = {"poll_seconds": 60.0, "poll_timeout_seconds": 1.0, "connect_seconds": 1.0, "stall_seconds": 5.0}
        config = GatewayConfig(
            limits=Limits(**{**bounds, **limits}),  # type: ignore[arg-type]
            keys=keys or KeySettings(),
            neurons=[NeuronAddress(name=n.name, endpoint=f"http://127.0.0.1:{n.port}") for n in self.nodes],
        )
        state_directory = Path(self._stack.enter_context(TemporaryDirectory()))
        cortex = CortexGateway(config, Catalogue(specs), state_directory)
        await self._stack.enter_async_context(_alive(cortex))
        state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
        kind = protocol_for(cortex.site())
        server = await asyncio.get_running_loop().create_server(lambda: kind(None, state, {}), "127.0.0.1", 0)
        gateway = Gateway(cortex, state, server.sockets[0].getsockname()[1], self._client)
        gateway.state_directory = state_directory
        self._stack.push_async_callback(_close, server, gateway)
        return gateway


@asynccontextmanager
async def _alive(cortex: CortexGateway) -> AsyncGenerator[None, None]:
    """Run the gateway's lifespan in a task of its own, as a server does."""
    started, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with cortex.lifespan(Starlette()):
            started.set()
            await over.wait()

    task = asyncio.ensure_future(live())
    await until(lambda: started.is_set() or task.done())
    yield
    over.set()
    await soon(task)


async def _close(server: asyncio.Server, gateway: Gateway) -> None:
    server.close()
    for writer in gateway.bare:
        writer.transport.abort()
    for connection in list(gateway.state.connections):
        connection._transport.abort()
    await gateway.idle()


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {"content-type": "application/json", **_dashed(headers)}


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def ask(model: str = "m", **fields: Any) -> bytes:
    """Return the body of a chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()
