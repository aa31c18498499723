"""One request and the answer to it, on one connection. The handler owns it; the connection tells it what happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from cortex.core.errors import CortexError, UnsupportedMediaType
from cortex.wire.envelopes import answer_of, id_headers

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
EVENT_STREAM = b"text/event-stream; charset=utf-8"
# A proxy in between that holds a stream back would make every client wait.
UNBUFFERED: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Wire(Protocol):
    """What an exchange needs of its connection."""

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


@dataclass(slots=True, eq=False)
class Exchange:
    """A request whose body is whole, and its answer: `start`, `write` …, `finish`, or `respond` for all at once.

    `last_words` says how an answer that has begun ends when its handler fails; without it the transfer is broken off,
    since a cut answer must never look like a whole one. `told` goes out with every answer, a refusal too.
    """

    wire: Wire
    method: str
    path: str
    query: bytes
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    request_id: str
    http_11: bool = True
    keep_alive: bool = True
    peer: tuple[str, int] | None = None
    started: bool = False
    finished: bool = False
    status: int = 0
    last_words: Callable[[CortexError], bytes] | None = None
    told: Headers = field(default_factory=list)
    _chunked: bool = field(default=False)

    def header(self, name: bytes) -> bytes | None:
        """Return the first header called *name* (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def require_json(self) -> None:
        """Raise UnsupportedMediaType unless the body is declared as JSON, or not at all.

        A browser sends `text/plain` and forms across sites without asking; nothing here accepts them.
        """
        declared = self.header(b"content-type")
        if declared is not None and declared.split(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType("content-type: expected application/json")
        charset = declared.lower().partition(b"charset=")[2].strip(b' "') if declared else b""
        if charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
            raise UnsupportedMediaType("content-type: expected charset utf-8")

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, length: int | None = None) -> None:
        """Send the head; without *length* the body is chunked, or ends with the connection for HTTP/1.0."""
        self.wire.send(self._head(status, headers, length))

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
        self.started, self.status = True, status
        self._chunked = length is None and self.http_11
        if length is None and not self.http_11:
            self.keep_alive = False
        head = [b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))]
        head += [b"%b: %b\r\n" % pair for pair in headers]
        head += [b"%b: %b\r\n" % pair for pair in (*self.told, *id_headers(self.path, self.request_id))]
        if length is not None:
            head.append(b"content-length: %d\r\n" % length)
        elif self._chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(head)

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
        self.wire.send(self._head(status, headers, len(body)) + (b"" if self.method == "HEAD" else body))
        self.finish()

    def fail(self, error: CortexError) -> None:
        """Send *error* as the whole answer, in the envelope of the path's dialect."""
        status, body, headers = answer_of(error, self.path, self.request_id)
        self.respond(status, body, [JSON, *headers])


Handler = Callable[[Exchange], Awaitable[None]]
