#!/usr/bin/env python3
"""A node for benchmarks: it speaks what Cortex polls and what OpenAI's clients ask, and costs as little as it can.

What a prompt says decides how it is answered: `mock-every=0.01` by a stream with so many seconds between tokens,
`mock-silent` by one that says nothing after its first token, `mock-flood` by one that is as fast as its reader.
`max_tokens` is how many tokens there are. Each token is when it was sent, in nanoseconds of the monotonic clock.

    .venv/bin/python bench/mock_node.py PORT [PORT ...]
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import ClassVar

import uvloop

MODEL = "m"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
TOKENS = re.compile(rb'"max_tokens": *(\d+)')
HOW = re.compile(rb"mock-(every|silent|flood)(?:=([0-9.]+))?")
FLOOD_TOKEN = b"x" * 64

TIMINGS = b'"timings":{"queue_ms":0.1,"prefill_ms":1.5,"decode_ms":9.5}'
WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":40,"completion_tokens":80,"total_tokens":120}}' % (b"word " * 80)
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b'x-cortex-trailer: {"usage":{"prompt_tokens":40,"completion_tokens":80,"cached_tokens":0},%b,'
    b'"finish_reason":"stop"}\r\ncontent-length: %d\r\n\r\n%b' % (TIMINGS, len(WHOLE), WHOLE)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
TOKEN = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    b': cortex {"usage":{"prompt_tokens":40,"completion_tokens":80,"cached_tokens":0},%b,"finish_reason":"stop"}\n\n'
    % TIMINGS
)


def chunk(data: bytes) -> bytes:
    """Return *data* in the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Node(asyncio.Protocol):
    """One connection. `lost` are the moments at which connections went whose stream was not over."""

    lost: ClassVar[list[float]] = []

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._held = loop, b""
        self._left, self._every = 0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._flooding = self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._left:
            self.lost.append(time.monotonic())
        self._left, self._flooding = 0, False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._flooding:
            self._flood()

    def data_received(self, data: bytes) -> None:
        data = self._held + data if self._held else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._held = data
            return
        length = LENGTH.search(data, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(data) < whole:
            self._held = data
            return
        self._held = data[whole:]
        if data.startswith(b"POST /v1/"):
            self._generate(data)
        else:
            self._tell(data.split(b" ", 2)[1].partition(b"?")[0])

    def _generate(self, data: bytes) -> None:
        if b'"stream":true' not in data and b'"stream": true' not in data:
            self._transport.write(ANSWER)
            return
        tokens, said = TOKENS.search(data), HOW.search(data)
        how = said[1] if said else b"every"
        self._left = int(tokens[1]) if tokens else 16
        self._every = float(said[2]) if said and said[2] else 0.01
        self._transport.write(STREAM_HEAD)
        self._due = self._loop.time()
        if how == b"flood":
            self._flooding = True
            self._flood()
        elif how == b"silent":
            self._token()
        else:
            self._pulse()

    def _token(self) -> None:
        self._transport.write(chunk(TOKEN % b"%d" % time.monotonic_ns()))

    def _pulse(self) -> None:
        self._token()
        self._left -= 1
        if not self._left:
            self._transport.write(chunk(LAST) + b"0\r\n\r\n")
            return
        self._due += self._every
        self._timer = self._loop.call_at(self._due, self._pulse)

    def _flood(self) -> None:
        piece = chunk(TOKEN % FLOOD_TOKEN)
        while self._left and not self._paused:
            self._transport.write(piece)
            self._left -= 1
        if not self._left:
            self._flooding = False
            self._transport.write(chunk(LAST) + b"0\r\n\r\n")

    def _tell(self, path: bytes) -> None:
        told = TOLD.get(path, lambda: {"status": "ok", "model": MODEL})()
        body = json.dumps(told).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


def _health() -> dict[str, object]:
    return {
        "status": "ready",
        "boot_id": "boot-1",
        "uptime_secs": 1.0,
        "readings_age_seconds": 0.1,
        "devices": [{"index": 0, "memory_used_bytes": 0, "memory_free_bytes": 8 << 30}],
        "activation": {"state": "ready"},
        "models": [{"id": MODEL, "engine": "llamacpp", "status": "ready", "slots": 4096}],
    }


def _discovery() -> dict[str, object]:
    return {
        "hostname": "mock",
        "os": "linux",
        "kernel": "6",
        "boot_id": "boot-1",
        "version": "0",
        "devices": [{"index": 0, "name": "CPU", "kind": "cpu", "memory_total_bytes": 16 << 30}],
        "engines": ["llamacpp"],
    }


TOLD = {
    b"/health": _health,
    b"/discovery": _discovery,
    b"/models": lambda: _health()["models"],
    b"/v1/models": lambda: {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
    b"/get_model_info": lambda: {"model_path": MODEL, "is_generation": True},
    b"/model_info": lambda: {"model_path": MODEL, "is_generation": True},
    b"/lost": lambda: Node.lost,
}


async def main(ports: list[int]) -> None:
    """Serve on *ports* of the loopback until killed."""
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Node(loop), "127.0.0.1", port, backlog=2048)
    print("ready", flush=True)
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1:]]))
