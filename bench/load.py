#!/usr/bin/env python3
"""The load generator of the benchmarks: bounded, on loopback, and cheap enough to leave the server the slower side.

.venv/bin/python bench/load.py json|chunks|hold|stall|leave|translated PORT [--…]     prints one line of JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import uvloop

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
STAMP = re.compile(rb'"content":"(\d{10,})"')
CHAT = "/v1/chat/completions"
QUESTION = "Say something of eighty words about a lighthouse."


def request(key: str, path: str = CHAT, *, content: str = QUESTION, **fields: Any) -> bytes:
    """Return a chat with *fields*."""
    messages = [{"role": "user", "content": content}]
    return _request(key, path, {"model": "m", "messages": messages, "max_tokens": 80, **fields})


def _request(key: str, path: str, asked: dict[str, Any]) -> bytes:
    """Return a request as an SDK sends it."""
    body = json.dumps(asked, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n"
        f"Accept-Encoding: identity\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n"
        f"User-Agent: OpenAI/Python 2.0.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.0.0\r\n"
        f"X-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\n"
        f"X-Stainless-Retry-Count: 0\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Whole(asyncio.Protocol):
    """Sends one request after the other; `latencies` is in seconds."""

    def __init__(self, asked: bytes) -> None:
        self._asked, self._held, self._wanted = asked, b"", -1
        self.latencies: list[float] = []
        self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += 1

    def _ask(self) -> None:
        self._at = time.perf_counter()
        self._transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        data = self._held + data if self._held else data
        if self._wanted < 0:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._held = data
                return
            self.errors += data[9:12] != b"200"
            length = LENGTH.search(data, 0, end + 2)
            self._wanted = end + 4 + int(length[1]) if length else 0
        if len(data) < self._wanted or (not self._wanted and not data.endswith(b"0\r\n\r\n")):
            self._held = data
            return
        self.latencies.append(time.perf_counter() - self._at)
        self._held, self._wanted = b"", -1
        self._ask()


class Stream(asyncio.Protocol):
    """Asks for a stream, and once more when it is over; notes each token's delay and the gap before it."""

    def __init__(self, asked: bytes, *, again: bool = True) -> None:
        self._asked, self._again, self._last = asked, again, 0.0
        self.delays: list[float] = []
        self.gaps: list[float] = []
        self.errors = self.tokens = self.bytes = 0
        self.first = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        transport.write(self._asked)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.errors += 1
        if not self.first.done():
            self.first.set_exception(ConnectionError("closed before the first token"))
            self.first.exception()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self.bytes += len(data)
        if data.startswith(b"HTTP/1.1 "):
            self.errors += data[9:12] != b"200"
        stamps = STAMP.findall(data)
        if stamps:
            if not self.first.done():
                self.first.set_result(now)
            self.tokens += len(stamps)
            self.delays += [now - int(stamp) / 1e9 for stamp in stamps]
            if self._last:
                self.gaps.append(now - self._last)
            self._last = now
        if data.endswith(b"0\r\n\r\n"):
            self._last = 0.0
            if self._again:
                self.transport.write(self._asked)


def quantile(values: list[float], q: float) -> float:
    """Return a quantile of *values*, 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def open_all(make: Callable[[], asyncio.Protocol], port: int, count: int) -> list[Any]:
    """Open *count* connections, a few at once."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, "127.0.0.1", port))[1] for _ in range(count)]


def _mark(what: str) -> None:
    """Tell whoever measures the server that the window opens or closes, and wait until it has looked."""
    print(what, flush=True)
    sys.stdin.readline()


async def whole(port: int, asked: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Return requests a second and latencies."""
    clients = await open_all(lambda: Whole(asked), port, connections)
    await asyncio.sleep(0.5)
    _mark("begin")
    for client in clients:
        client.latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    latencies = [latency for client in clients for latency in client.latencies]
    _mark("end")
    return {
        "count": len(latencies),
        "per_second": len(latencies) / took,
        "p50_us": quantile(latencies, 0.5) * 1e6,
        "p99_us": quantile(latencies, 0.99) * 1e6,
        "errors": sum(client.errors for client in clients),
    }


async def chunks(port: int, asked: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Return tokens a second, delays and gaps."""
    streams = await open_all(lambda: Stream(asked), port, connections)
    await asyncio.sleep(1.0)
    _mark("begin")
    for stream in streams:
        stream.delays.clear()
        stream.gaps.clear()
        stream.tokens = 0
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took, count = time.perf_counter() - began, sum(stream.tokens for stream in streams)
    _mark("end")
    delays = [delay for stream in streams for delay in stream.delays]
    gaps = [gap for stream in streams for gap in stream.gaps]
    return {
        "count": count,
        "per_second": count / took,
        "delay_p50_ms": quantile(delays, 0.5) * 1e3,
        "delay_p99_ms": quantile(delays, 0.99) * 1e3,
        "gap_p99_ms": quantile(gaps, 0.99) * 1e3,
        "errors": sum(stream.errors for stream in streams),
    }


async def hold(port: int, asked: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Open *connections* streams and keep them."""
    streams = await open_all(lambda: Stream(asked), port, connections)
    await asyncio.gather(*(stream.first for stream in streams))
    await asyncio.sleep(seconds)
    _mark("end")
    return {"count": len(streams), "errors": sum(stream.errors for stream in streams)}


async def stall(port: int, asked: bytes, seconds: float) -> dict[str, float]:
    """Ask for a flood, read the start of it and then no more."""
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    plain.setblocking(False)
    await loop.sock_connect(plain, ("127.0.0.1", port))
    _mark("begin")
    await loop.sock_sendall(plain, asked)
    taken = len(await loop.sock_recv(plain, 16 << 10))
    await asyncio.sleep(seconds)
    _mark("end")
    plain.close()
    return {"taken": taken}


async def leave(port: int, asked: bytes, node_ports: list[int], rounds: int) -> dict[str, float]:
    """Hang up after the first token of a node that then is silent; return how long the node did not know of it."""
    loop, waits = asyncio.get_running_loop(), []
    for _ in range(rounds):
        _, stream = await loop.create_connection(lambda: Stream(asked, again=False), "127.0.0.1", port)
        await stream.first
        await asyncio.sleep(0.02)
        before, at = await _lost(node_ports), time.monotonic()
        stream.transport.close()
        while len(told := await _lost(node_ports)) == len(before) and time.monotonic() - at < 1.0:
            await asyncio.sleep(0.002)
        waits.append((told[-1] if len(told) > len(before) else time.monotonic()) - at)
    return {"p50_ms": quantile(waits, 0.5) * 1e3, "max_ms": max(waits) * 1e3, "count": len(waits)}


async def _lost(ports: list[int]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", ports[0])
    writer.write(b"GET /lost HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    found = LENGTH.search(head)
    assert found is not None
    lost: list[float] = json.loads(await reader.readexactly(int(found[1])))
    writer.close()
    return lost


async def translated(port: int, asked: bytes, connections: int, seconds: float) -> dict[str, float]:
    """Ask for floods and count the events that come out."""
    streams = await open_all(lambda: Flood(asked), port, connections)
    await asyncio.sleep(0.5)
    _mark("begin")
    for stream in streams:
        stream.events = 0
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took, count = time.perf_counter() - began, sum(stream.events for stream in streams)
    _mark("end")
    return {"count": count, "per_second": count / took, "errors": sum(stream.errors for stream in streams)}


class Flood(asyncio.Protocol):
    """Takes streams as fast as they come and counts the tokens in them."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self.events = self.errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._asked)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.errors += data[9:12] != b"200"
        self.events += data.count(b"event: ")
        if data.endswith(b"0\r\n\r\n"):
            self._transport.write(self._asked)


def main() -> None:
    """Read the command line, run one kind of load, print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["json", "chunks", "hold", "stall", "leave", "translated"])
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--key", default="none")
    parser.add_argument("--path", default=CHAT)
    parser.add_argument("--prompt-bytes", type=int, default=0)
    parser.add_argument("--node-ports", type=int, nargs="*", default=[])
    args = parser.parse_args()
    fields: dict[str, Any] = {"content": "word " * (args.prompt_bytes // 5)} if args.prompt_bytes else {}
    match args.kind:
        case "json":
            found = whole(args.port, request(args.key, **fields), args.connections, args.seconds)
        case "chunks":
            asked = request(args.key, stream=True, content="mock-every=0.01", max_tokens=400)
            found = chunks(args.port, asked, args.connections, args.seconds)
        case "hold":
            asked = request(args.key, stream=True, content="mock-every=0.5", max_tokens=400)
            found = hold(args.port, asked, args.connections, args.seconds)
        case "stall":
            asked = request(args.key, stream=True, content="mock-flood", max_tokens=400_000)
            found = stall(args.port, asked, args.seconds)
        case "leave":
            asked = request(args.key, stream=True, content="mock-silent", max_tokens=4)
            found = leave(args.port, asked, args.node_ports, 20)
        case _:
            asked = dialect_request(args.key, args.path)
            found = translated(args.port, asked, args.connections, args.seconds)
    print(json.dumps(uvloop.run(found)), flush=True)


def dialect_request(key: str, path: str) -> bytes:
    """Return a request for a flood in the dialect of *path*."""
    if path == "/v1/responses":
        return _request(key, path, {"model": "m", "input": "mock-flood", "max_output_tokens": 5000, "stream": True})
    return request(key, path, content="mock-flood", max_tokens=5000, stream=True)


if __name__ == "__main__":
    main()
