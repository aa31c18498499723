"""The server side of a connection, under uvicorn's public `http=` setting.

llhttp parses and validates; this class checks what llhttp lets pass, bounds sizes and waiting, reads the body whole,
and hands the request to the data path's handler for its path or to the ASGI application for all else. A client that
closes its side is gone: its handler is cancelled, within the same turn of the loop.

Limits: a head of 64 KiB and 256 headers, with chunk extensions and trailers, within 5 s of its first byte; a body of
64 MiB without a pause of 5 s, and not slower than 64 KiB/s after the first 30 s; an idle connection is kept 75 s.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import httptools

from cortex.core.errors import (
    BadRequest,
    CortexError,
    HeadersTooLarge,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestTooSlow,
    ShuttingDown,
)
from cortex.core.ids import request_id_from
from cortex.core.logging import get_logger
from cortex.serving.asgi import Application, run_asgi
from cortex.serving.exchange import Exchange, Handler, shielding
from cortex.serving.head import MAX_BODY_BYTES, Head, Headers, KnownHead, check_framing, known

log = get_logger(__name__)

MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES = 64 << 10, 256, 16 << 10
HEAD_SECONDS, BODY_IDLE_SECONDS, BODY_GRACE_SECONDS, KEEP_ALIVE_SECONDS = 5.0, 5.0, 30.0, 75.0
BODY_BYTES_PER_SECOND = 64 << 10
FED_BYTES = 16 << 10  # what frames a body is counted each time
CHUNK_BYTES = 16  # what a chunk may take beside its data, and not be counted
LINGER_SECONDS, STALLED_READER_SECONDS = 2.0, 120.0
HIGH_WATER_BYTES, MAX_PIPELINED = 128 << 10, 16
TIMER_SLACK_SECONDS = 0.005  # a timer may be early by its clock's grain
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


@dataclass(slots=True)
class Drain:
    """Whether the process is on its way out: what is under way goes on, health is still told, nothing new begins."""

    begun: bool = False


@dataclass(frozen=True)
class Site:
    """What is served: handlers of the data path by path (all POST), and an ASGI application for everything else.

    *check* sees each request before either does, and raises what refuses it. When a client leaves, its handler is
    cancelled by asyncio's own means, unless it is `shielding`; the application always is.
    """

    handlers: Mapping[str, Handler]
    application: Application
    drain: Drain = field(default_factory=Drain)
    check: Callable[[Exchange], None] = lambda _: None


class HttpProtocol(asyncio.Protocol):
    """One connection. Its owner is the transport; it owns one handler task at a time and cancels it when it is lost."""

    site: ClassVar[Site]

    def __init__(
        self, config: Any, server_state: Any, app_state: Any, _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._state, self._app_state = server_state, app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = math.inf
        self._known: KnownHead | None = None
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self.behind = False
        self._stalled: asyncio.TimerHandle | None = None
        self._peer: tuple[str, int] | None = None
        self._closing = self._discarding = self._lost = False
        self._in_request = self._in_head = False
        self._framing_bytes = self._received_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_started = 0.0

    # the connection ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        self._peer = (peer[0], peer[1]) if isinstance(peer, tuple) else None
        self._state.connections.add(self)
        self._arm(KEEP_ALIVE_SECONDS, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the connection."""
        self._leave()
        self._state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._stalled is not None:
            self._stalled.cancel()

    def eof_received(self) -> bool:
        """Take a closed sending side for a client that is gone: the two cannot be told apart without writing."""
        self._leave()
        return False  # what was written before is still sent, to a client that reads on

    def _leave(self) -> None:
        """Cancel the handler: nobody waits for its answer any more."""
        self._lost = True
        self._disarm()
        if self._writable is not None and not self._writable.done():
            self._writable.cancel()
        self._waiting.clear()
        self.cut()

    def cut(self) -> None:
        """Cancel the handler. What it must finish first, such as telling an engine to stop, it is let finish."""
        if self._current is not None and self._current.scope is not None:
            self._current.scope.cancel()
        elif self._task is not None:
            self._task.cancel()

    def _give_up(self) -> None:
        """Let go of a client that does not read."""
        self._leave()
        self._transport.abort()

    def shutdown(self) -> None:
        """Close now if idle, else after the answer in progress; uvicorn calls this when it stops."""
        self._closing = True
        if self._current is None:
            self._transport.close()
        elif not self._current.started:
            self._current.keep_alive = False

    def pause_writing(self) -> None:
        """Hold whoever writes until the reader has caught up; a reader that never does is let go."""
        self._writable, self.behind = self._loop.create_future(), True
        self._stalled = self._loop.call_later(STALLED_READER_SECONDS, self._give_up)

    def resume_writing(self) -> None:
        """Let the writer go on."""
        if self._stalled is not None:
            self._stalled.cancel()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable, self.behind = None, False

    def send(self, data: bytes) -> None:
        """Write *data* unless the client is gone."""
        if not self._lost:
            self._transport.write(data)

    async def writable(self) -> None:
        """Wait while the transport holds more than the high-water mark."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def when_writable(self, call: Callable[[], None]) -> bool:
        """Return False if the reader keeps up; else call *call* once it has caught up, and return True."""
        if self._writable is None:
            return False
        self._writable.add_done_callback(lambda future: None if future.cancelled() else call())
        return True

    def _arm(self, seconds: float, action: Callable[[], None]) -> None:
        """Have *action* called in so many *seconds*, in place of what was to be. The timer that runs may do for it."""
        self._due, self._overdue = self._loop.time() + seconds, action
        if self._due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer()

    def _disarm(self) -> None:
        self._due = math.inf

    def _set_timer(self) -> None:
        self._timer_at = self._due
        self._timer = self._loop.call_at(self._due, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._loop.time() >= self._due - TIMER_SLACK_SECONDS:
            self._due = math.inf
            self._overdue()
        elif self._due < math.inf:
            self._set_timer()

    def _close(self) -> None:
        """Close once what was written is out; a reader that does not take it is not waited for for ever."""
        if not self._lost:
            self._transport.close()
            self._arm(STALLED_READER_SECONDS, self._transport.abort)

    # a request comes in -----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take a request whose head is known at once; feed the parser with any other."""
        at_head = self._current is None and not self._in_request
        if at_head and self._known is not None and (body := self._known.body_in(data)) is not None:
            self._disarm()
            self._serve(self._exchange(self._known.head, body))
            return
        for at in range(0, len(data), FED_BYTES):
            self._feed(data[at : at + FED_BYTES])
        if at_head:
            self._known = known(self._current.head, data) if self._current is not None else None

    def _feed(self, data: bytes) -> None:
        """Feed the parser; whatever is wrong with the bytes is answered once and ends the connection."""
        if self._discarding:
            return
        before = self._received_bytes
        try:
            self._parser.feed_data(data)
            self._count_framing(len(data) - (self._received_bytes - before))
        except CortexError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, CortexError) else BadRequest("the request could not be parsed"))
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"not valid HTTP: {error}", code="malformed_http"))

    def _count_framing(self, size: int) -> None:
        """Count *size* bytes of no body: the parser would take a chunk's extension, or a trailer, for ever."""
        self._framing_bytes += size
        if self._in_request and self._framing_bytes > MAX_HEAD_BYTES:
            raise HeadersTooLarge(f"the request's head and framing are larger than {MAX_HEAD_BYTES} bytes")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request once more as one that does not ask for another protocol. Source: RFC 9110 section 7.8."""
        kept = [(k, v) for k, v in self._headers if k not in (b"upgrade", b"http2-settings")]
        plain = [(k, b"close" if k == b"connection" else v) for k, v in kept]
        head = b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._target)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(head + b"".join(b"%b: %b\r\n" % pair for pair in plain) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._begin()
        self._in_request = self._in_head = True
        self._framing_bytes = 0
        if self._current is None:
            self._arm(HEAD_SECONDS, self._too_slow)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._target += url
        if len(self._target) > MAX_TARGET_BYTES:
            raise HeadersTooLarge(f"the request target is longer than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS:
            if self._in_head:
                raise HeadersTooLarge(f"the request has more than {MAX_HEADERS} headers")
            raise BadRequest("the request has too many trailers")

    def on_headers_complete(self) -> None:
        """Check the framing before any byte of the body is read."""
        self._in_head = False
        check_framing(self._parser.get_http_version(), self._parser.get_method(), self._headers)
        self._body_started = self._loop.time()
        if self._current is None:
            self._arm(BODY_IDLE_SECONDS, self._too_slow)
            if any(name == b"expect" for name, _ in self._headers):
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_chunk_header(self) -> None:
        """Take note of a chunk."""
        self._framing_bytes -= CHUNK_BYTES

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._received_bytes += len(data)
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            raise PayloadTooLarge(MAX_BODY_BYTES)
        if self._current is None:
            self._arm(BODY_IDLE_SECONDS, self._too_slow)
            allowed = BODY_GRACE_SECONDS + self._body_bytes / BODY_BYTES_PER_SECOND
            if self._loop.time() - self._body_started > allowed:
                raise RequestTooSlow("the request's body arrives too slowly")

    def on_message_complete(self) -> None:
        """Serve the request, or queue it behind the one being served."""
        self._in_request = False
        if self._parser.should_upgrade():
            return  # the parser stops here, and `_ignore_upgrade` takes over
        self._disarm()
        exchange = self._exchange(self._head(), b"".join(self._body) if len(self._body) != 1 else self._body[0])
        self._begin()
        if self._current is None:
            self._serve(exchange)
        else:
            self._waiting.append(exchange)
            if len(self._waiting) >= MAX_PIPELINED:
                self._transport.pause_reading()

    def _head(self) -> Head:
        try:
            url = httptools.parse_url(self._target)
        except httptools.HttpParserInvalidURLError:
            raise BadRequest("the request target is not a URL") from None
        path = (url.path or b"/").decode("latin-1")
        return Head(
            self._parser.get_method().decode("ascii"),
            "/" + path.lstrip("/") if path.startswith("//") else path,
            url.query or b"",
            self._headers,
            http_11=self._parser.get_http_version() == "1.1",
            keep_alive=self._parser.should_keep_alive(),
        )

    def _exchange(self, head: Head, body: bytes) -> Exchange:
        return Exchange(self, head, body, _request_id(head), head.keep_alive and not self._closing, self._peer)

    def _too_slow(self) -> None:
        self._refuse(RequestTooSlow("the request's head or body stopped arriving"))

    def _refuse(self, error: CortexError) -> None:
        """Answer *error* and close, reading on for a moment so that the answer is not lost to a reset."""
        self._discarding, self._known = True, None
        if self._current is not None:
            self._closing = True  # the request before this one is still being answered
            return
        log.debug("request_refused", status=error.status, error=str(error), peer=self._peer)
        head = Head("POST", self._path(), headers=self._headers)
        refused = self._current = Exchange(self, head, b"", _request_id(head), keep_alive=False)
        refused.fail(error)

    def _path(self) -> str:
        """Return the path of a request that is not whole, for the dialect of its refusal."""
        return self._target.partition(b"?")[0].decode("latin-1")

    # the answer goes out ----------------------------------------------------------------------------------------------

    def _serve(self, exchange: Exchange) -> None:
        self._current = exchange
        self._state.total_requests += 1
        # This connection owns the task: it is cancelled when the client goes, and uvicorn waits for it when it stops.
        task = self._task = self._loop.create_task(self._answer(exchange))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        """Serve one request; this is its boundary, where whatever went wrong becomes an answer."""
        try:
            if self._closing or self.site.drain.begun:
                exchange.keep_alive = False
            self.site.check(exchange)
            handler = self.site.handlers.get(exchange.path)
            if handler is None:
                if exchange.method not in _METHODS:
                    raise MethodNotAllowed(f"{exchange.method} is not offered")
                await self._run_application(exchange)
            elif exchange.method != "POST":
                raise MethodNotAllowed(f"{exchange.path} is for POST")
            elif self.site.drain.begun:
                raise ShuttingDown("the server is shutting down")
            else:
                await handler(exchange)
            exchange.finish()
        except CortexError as error:
            self._fail(exchange, error)
        except Exception as error:
            log.error("request_crashed", request=exchange.request_id, path=exchange.path, exc_info=error)
            self._fail(exchange, CortexError("internal error; the log has the request id"))
        except asyncio.CancelledError:
            if not self._lost:
                self._fail(exchange, ShuttingDown("the server is shutting down"))
            raise

    async def _run_application(self, exchange: Exchange) -> None:
        await shielding(lambda exchange: run_asgi(self.site.application, exchange, self._app_state))(exchange)

    def _fail(self, exchange: Exchange, error: CortexError) -> None:
        if self._lost or exchange.finished:
            return
        if not exchange.started:
            exchange.fail(error)
        elif exchange.last_words is not None:
            exchange.keep_alive = False
            exchange.write(exchange.last_words(error))
            exchange.finish()
        else:
            self._transport.abort()

    def complete(self, *, reusable: bool) -> None:
        """Go on to the next request, wait for one, or close."""
        self._current = None
        if self._lost:
            return
        if self._waiting and reusable:
            self._transport.resume_reading()
            self._serve(self._waiting.popleft())
        elif reusable and not self._closing:
            self._arm(KEEP_ALIVE_SECONDS, self._close)
        elif self._discarding:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._arm(LINGER_SECONDS, self._close)
        else:
            self._close()


def _request_id(head: Head) -> str:
    offered = head.header(b"x-request-id")
    return request_id_from(offered.decode("latin-1") if offered else None)


def protocol_for(site: Site) -> type[HttpProtocol]:
    """Return the protocol class that serves *site*; uvicorn makes one instance a connection."""
    return type("SiteProtocol", (HttpProtocol,), {"site": site})
