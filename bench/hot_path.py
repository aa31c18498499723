#!/usr/bin/env python3
"""What one request, or one chunk, costs the gateway's own code: the whole of it, between two transports of no cost.

The gateway runs with keys, rates, a budget, metrics and its log at info, and two nodes have the model; `--open` leaves
the keys out, and `--nodes 1` leaves nothing to choose. What sockets cost is measured by `bench/peers.py`. The figure is
the best of several rounds: anything else on the machine only adds to it.

    .venv/bin/python bench/hot_path.py [--requests 200] [--rounds 60] [--nodes 2] [--open] [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import uvloop
from load import request
from mock_node import ANSWER, LAST, STREAM_HEAD, TOKEN, chunk
from mock_node import Node as Polled
from peer_programs import CORTEX, Bench
from starlette.applications import Starlette

from cortex.core.logging import configure_log
from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import catalogue_path, load_config
from cortex.gateway.keys.secret import new_key
from cortex.gateway.upstream import Connection
from cortex.serving.protocol import HttpProtocol, protocol_for

PIECE = chunk(TOKEN % b"1234567890123456789")
CHUNKS = 1000


class Transport:
    """Takes what is written, and does no more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def write(self, data: bytes) -> None: ...


class Client(Transport):
    """A client: `answered` is called once an answer has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stream: bool) -> None:
        super().__init__(loop)
        self._stream = stream
        self.done = loop.create_future()
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data
        if (not self._stream or data.endswith(b"0\r\n\r\n")) and not self.done.done():
            self.done.set_result(None)


class Node(Transport):
    """A node that answers in the next turn of the loop."""

    connection: Connection

    def __init__(self, loop: asyncio.AbstractEventLoop, *, stream: bool) -> None:
        super().__init__(loop)
        self._stream = stream
        self.chunks_seconds: list[float] = []

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self._tell if self._stream else self._answer)

    def _answer(self) -> None:
        self.connection.data_received(ANSWER)

    def _tell(self) -> None:
        take = self.connection.data_received
        take(STREAM_HEAD)
        began = time.perf_counter()
        for _ in range(CHUNKS):
            take(PIECE)
        self.chunks_seconds.append((time.perf_counter() - began) / CHUNKS)
        take(chunk(LAST) + b"0\r\n\r\n")


async def _requests(protocol: HttpProtocol, asked: bytes, count: int) -> float:
    loop = asyncio.get_running_loop()
    client: Client = protocol._transport  # type: ignore[assignment]
    began = time.perf_counter()
    for _ in range(count):
        client.done = loop.create_future()
        protocol.data_received(asked)
        await client.done
        await asyncio.sleep(0)
    return (time.perf_counter() - began) / count


async def measure(arguments: argparse.Namespace, home: Path) -> None:
    """Put a gateway together, and have it serve."""
    loop, key = asyncio.get_running_loop(), new_key()
    servers = [await loop.create_server(lambda: Polled(loop), "127.0.0.1", 0) for _ in range(arguments.nodes)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    CORTEX.command(Bench(home, 1024, ports, key))
    if arguments.open:
        (home / "keys.toml").unlink()
    path = home / "cortex.toml"
    config = load_config(path, {})
    gateway = CortexGateway(config, load_catalogue(catalogue_path(path, config)), home / "state", path)
    async with gateway.lifespan(Starlette()):
        for stream in (False, True):
            nodes = [_connect(gateway, loop, port, stream=stream) for port in ports]
            protocol = protocol_for(gateway.site())(
                None, SimpleNamespace(connections=set(), tasks=set(), total_requests=0), {}
            )
            client = Client(loop, stream=stream)
            protocol.connection_made(client)  # type: ignore[arg-type]
            asked = request(key.reveal(), stream=stream, max_tokens=80)
            await _requests(protocol, asked, 10)
            assert client.last.startswith(b"HTTP/1.1 200") or stream, client.last
            count = max(10, arguments.requests // 20) if stream else arguments.requests
            seconds = await _profiled(arguments, protocol, asked, count)
            if stream:
                per_chunk = min(second for node in nodes for second in node.chunks_seconds)
                print(f"a chunk of a stream   {per_chunk * 1e6:6.2f} µs")
            else:
                print(f"a request             {seconds * 1e6:6.1f} µs")


async def _profiled(arguments: argparse.Namespace, protocol: HttpProtocol, asked: bytes, count: int) -> float:
    """Return the least time of a request, and print where it went if that is wanted."""
    profile = cProfile.Profile() if arguments.profile else None
    if profile is not None:
        profile.enable()
    seconds = min([await _requests(protocol, asked, count) for _ in range(arguments.rounds)])
    if profile is not None:
        profile.disable()
        pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(45)
    return seconds


def _connect(gateway: CortexGateway, loop: asyncio.AbstractEventLoop, port: int, *, stream: bool) -> Node:
    """Give the gateway an idle connection to the node at *port*."""
    node = Node(loop, stream=stream)
    node.connection = Connection(loop)
    node.connection.connection_made(node)  # type: ignore[arg-type]
    gateway._pool._idle["127.0.0.1", port] = [node.connection]
    return node


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--open", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as nothing:
        sys.stderr = nothing
        configure_log("info", "json", {})
        uvloop.run(measure(arguments, Path(directory)))


if __name__ == "__main__":
    main()
