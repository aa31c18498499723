"""Connections to nodes for the data path: pooled, parsed by llhttp, their bodies handed on by callback.

One coroutine a request has control; body pieces go from the node's socket to the `Sink` in the same turn of the loop.
Closing the connection is how a node learns that nobody wants the answer any more.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from ssl import SSLCertVerificationError, SSLContext, SSLError
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import httptools

from cortex.core.errors import CortexError, UpstreamFailed, UpstreamTimeout

Address = tuple[str, int]
MAX_IDLE_PER_NODE = 256
MAX_HEAD_BYTES = 64 << 10
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class Secured(NamedTuple):
    """How a node is connected to that has joined: by TLS, and only if its certificate is for *name*."""

    context: SSLContext | None
    name: str | None


_PLAIN = Secured(None, None)


class Sink(Protocol):
    """Where the answer goes."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """The status and headers are there; names are lower case, of repeated ones the last counts."""
        ...

    def on_data(self, data: bytes) -> None:
        """A piece of the body is there."""
        ...


class Connection(asyncio.Protocol):
    """One connection to a node; at most one request at a time. Its user awaits `exchange`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._stall_seconds = 0.0
        self._heard = 0.0
        self._paused = False
        self.open = False
        self.used = False
        self.on_body: Callable[[bytes], None] = _nobody
        self._parser: Any = None  # of the exchange under way; httptools tells no types

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport, self.open = transport, True  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request in progress."""
        self.open = False
        self._fail(UpstreamFailed("the node closed the connection before the answer was whole"))

    def eof_received(self) -> bool:
        """Close at once: a node that stops sending has no more to say, and may not read what is still to be sent."""
        self.abort()
        return False

    async def exchange(self, request: bytes, sink: Sink, stall_seconds: float | None) -> None:
        """Send *request*, hand the answer to *sink*, and return when it is whole.

        Raises UpstreamFailed when the connection breaks, UpstreamTimeout when nothing arrives for *stall_seconds*
        (None: for as long as it takes). Cancelling closes the connection.
        """
        if not self.open:
            raise UpstreamFailed("the node closed the connection before the request was sent")
        self.on_body = sink.on_data  # the parser calls it for each piece: nothing else stands between
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes, self._in_head = 0, True
        self._sink, self._done = sink, self._loop.create_future()
        if stall_seconds is not None:
            self._stall_seconds, self._heard = stall_seconds, self._loop.time()
            self._stall = self._loop.call_later(stall_seconds, self._check_stall)
        self._transport.write(request)
        try:
            await self._done
        except (asyncio.CancelledError, CortexError):
            self.abort()
            raise
        finally:
            self._sink = self._done = self._parser = None
            self.on_body = _nobody
            self.used = True
            self.resume()  # a reader that was behind and left would leave the next request unheard
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None

    def abort(self) -> None:
        """Close now, whatever is under way."""
        if self.open:
            self.open = False
            self._transport.abort()

    def give_up(self, error: CortexError) -> None:
        """Have the exchange in progress raise *error*."""
        self._fail(error)

    def pause(self) -> None:
        """Stop reading: the reader at the other end is behind."""
        if self.open and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.open and self._paused:
            self._paused, self._heard = False, self._loop.time()
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._heard = self._loop.time()
        if self._done is None or self._done.done():
            self.abort()  # a node that speaks unasked is not to be trusted with the next request
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, UpstreamFailed) else UpstreamFailed(f"the relay failed: {cause!r}"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(UpstreamFailed(f"the node does not speak HTTP: {error}", code="upstream_malformed_response"))
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(UpstreamFailed("the node's headers are too large", code="upstream_malformed_response"))

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request."""
        if self._done is None or self._done.done():
            raise UpstreamFailed("the node speaks unasked", code="upstream_malformed_response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers mean nothing here."""
        if self._in_head:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Hand the head on; informational answers are skipped."""
        status = self._parser.get_status_code()
        if status >= 200 and self._sink is not None:
            self._in_head = False
            self._sink.on_head(status, self._headers)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._parser.get_status_code() < 200:
            self._headers = {}
            return
        if not self._parser.should_keep_alive():
            self.open = False
            self._transport.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _check_stall(self) -> None:
        silent = 0.0 if self._paused else self._loop.time() - self._heard
        if silent >= self._stall_seconds:
            self._fail(UpstreamTimeout(f"the node sent nothing for {silent:.0f} s"))
        else:
            self._stall = self._loop.call_later(self._stall_seconds - silent, self._check_stall)

    def _fail(self, error: CortexError) -> None:
        """Fail the request in progress; what goes wrong after its answer was whole costs the connection alone."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
        else:
            self.abort()


def _cause(error: OSError) -> str:
    """Return what kept a connection from being made. Clients hear it, so it has no address: asyncio's own words do."""
    if isinstance(error, SSLCertVerificationError):
        return "it shows another certificate than the one it joined with"
    if isinstance(error, SSLError):
        return "it does not speak TLS, as it should since it joined"
    causes = {os.strerror(int(number)) for number in _ERRNO.findall(str(error))}
    return ", ".join(sorted(causes)) or "its name cannot be resolved"


def _nobody(_: bytes) -> None:
    """Take what nobody wants."""


class Pool:
    """Idle connections by node, and those in use, so that a node's can all be closed at once.

    Connections to the addresses in *secured* are by TLS.
    """

    def __init__(self, connect_seconds: float, secured: Mapping[Address, Secured] = MappingProxyType({})) -> None:
        self._connect_seconds, self._secured = connect_seconds, secured
        self._idle: defaultdict[Address, list[Connection]] = defaultdict(list)
        self._busy: defaultdict[Address, set[Connection]] = defaultdict(set)

    def idle(self, address: Address) -> Connection | None:
        """Return an open connection to *address* that nobody uses, if there is one."""
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.open:
                self._busy[address].add(connection)
                return connection
        return None

    async def take(self, address: Address) -> Connection:
        """Return an open connection to *address*. Raises UpstreamFailed."""
        return self.idle(address) or await self.fresh(address)

    async def fresh(self, address: Address) -> Connection:
        """Return a new connection to *address*. Raises UpstreamFailed."""
        loop = asyncio.get_running_loop()
        tls, name = self._secured.get(address, _PLAIN)
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop), *address, ssl=tls, server_hostname=name
                )
        except TimeoutError:
            raise UpstreamFailed("the node does not take connections") from None
        except OSError as error:
            raise UpstreamFailed(f"the node cannot be reached: {_cause(error)}") from None
        self._busy[address].add(connection)
        return connection

    def give_back(self, address: Address, connection: Connection) -> None:
        """Keep *connection* for the next request, if it is still good."""
        self._busy[address].discard(connection)
        idle = self._idle[address]
        if len(idle) >= MAX_IDLE_PER_NODE:
            idle[:] = [kept for kept in idle if kept.open]
        if connection.open and len(idle) < MAX_IDLE_PER_NODE:
            idle.append(connection)
        else:
            connection.abort()

    def drop(self, address: Address) -> None:
        """Close every connection to a node that is taken for dead; their requests fail at once."""
        for connection in [*self._idle.pop(address, ()), *self._busy.pop(address, ())]:
            connection.abort()

    def close(self) -> None:
        """Close everything."""
        for address in {*self._idle, *self._busy}:
            self.drop(address)
