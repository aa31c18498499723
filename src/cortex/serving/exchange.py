"""One request and the answer to it, on one connection. The handler owns it; the connection tells it what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Protocol

import anyio
import msgspec

from cortex.core.errors import CortexError
from cortex.serving.head import Head, Headers
from cortex.wire.envelopes import answer_of, id_lines

JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream; charset=utf-8"
# A proxy in between that holds a stream back would make every client wait.
UNBUFFERED: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class Wire(Protocol):
    """What an exchange needs of its connection. `behind` is whether the peer does not keep up."""

    behind: bool

    def send(self, data: bytes) -> None:
        """Write *data*; never blocks."""
        ...

    async def writable(self) -> None:
        """Return once the peer has taken most of what was written."""
        ...

    def when_writable(self, call: Callable[[], None]) -> bool:
        """Return False if the peer keeps up; else call *call* once it has caught up, and return True."""
        ...

    def complete(self, *, reusable: bool) -> None:
        """The answer is whole; the connection may serve the next request if it is *reusable*."""
        ...


class Exchange(msgspec.Struct, eq=False):
    """A request whose body is whole, and its answer: `start`, `write` …, `finish`, or `respond` for all at once.

    `last_words` says how an answer that has begun ends when its handler fails; without it the transfer is broken off,
    since a cut answer must never look like a whole one. `told` are lines of the head of every answer, a refusal too.
    `scope` is what is cancelled when the client leaves, in place of the handler's task.

    A Struct, as there is one for each request: a dataclass takes several times as long to make.
    """

    wire: Wire
    head: Head
    body: bytes
    request_id: str
    keep_alive: bool = True
    peer: tuple[str, int] | None = None
    started: bool = False
    finished: bool = False
    status: int = 0
    last_words: Callable[[CortexError], bytes] | None = None
    told: bytes = b""
    scope: anyio.CancelScope | None = None
    _chunked: bool = False

    def __repr__(self) -> str:
        return f"Exchange({self.request_id}, {self.head.method} {self.head.path})"  # no key, no prompt

    @property
    def method(self) -> str:
        """The method, as `POST`."""
        return self.head.method

    @property
    def path(self) -> str:
        """The path, without the query."""
        return self.head.path

    def header(self, name: bytes) -> bytes | None:
        """Return the first header called *name* (lower case)."""
        return self.head.header(name)

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None = None) -> None:
        """Send the head; without *length* the body is chunked, or ends with the connection for HTTP/1.0."""
        self.wire.send(self._head(status, headers, length))

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
        self.started, self.status = True, status
        http_11 = self.head.http_11
        self._chunked = length is None and http_11
        if length is None and not http_11:
            self.keep_alive = False
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        lines += (self.told, id_lines(self.head.path, self.request_id))
        if length is not None:
            lines.append(b"content-length: %d\r\n" % length)
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def write(self, data: bytes) -> None:
        """Send a piece of the body; await `writable` now and then."""
        if data:
            self.wire.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def writable(self) -> None:
        """Wait for a slow reader."""
        await self.wire.writable()

    def finish(self) -> None:
        """End the answer."""
        if not self.finished:
            self.finished = True
            if self._chunked:
                self.wire.send(b"0\r\n\r\n")
            self.wire.complete(reusable=self.keep_alive)

    def respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
        """Send a whole answer."""
        self.wire.send(self._head(status, headers, len(body)) + (b"" if self.head.method == "HEAD" else body))
        self.finish()

    def fail(self, error: CortexError) -> None:
        """Send *error* as the whole answer, in the envelope of the path's dialect."""
        status, body, headers = answer_of(error, self.head.path, self.request_id)
        self.respond(status, body, [JSON, *headers])


Handler = Callable[[Exchange], Awaitable[None]]


def shielding(handler: Handler) -> Handler:
    """Return *handler* in a scope of its own, so that what it shields goes on when the client has left.

    A task that is cancelled by asyncio's own means, as it is without, is cancelled wherever it waits.
    """

    async def scoped(exchange: Exchange) -> None:
        with anyio.CancelScope() as exchange.scope:
            await handler(exchange)
        if exchange.scope.cancelled_caught:
            raise asyncio.CancelledError

    return scoped
