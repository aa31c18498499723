"""Pass one request to a replica and its answer to the client: bytes in, bytes out, and the trailer for the books."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from cortex.core.errors import CortexError, UpstreamFailed
from cortex.fleet.suspects import DEATHS_HEADER
from cortex.gateway.continuing import Continuing
from cortex.gateway.dialects import Asked
from cortex.gateway.upstream import Address, Connection, Pool
from cortex.serving.event_stream import EventStream
from cortex.serving.exchange import JSON, Exchange
from cortex.serving.head import Headers
from cortex.wire.errors import RemoteError, error_from
from cortex.wire.node_auth import header_line
from cortex.wire.sse import EventRelay, Trailer, decode_trailer

MAX_UNARY_BYTES = 256 << 20
_END_OF_CHUNK = b"}\n\n"  # only there: JSON has no line ends inside, and comments end otherwise
# A node says these when another replica, or a fresh look at the fleet, may do better.
_ELSEWHERE = frozenset({429, 502, 503, 504})


class TryElsewhere(Exception):
    """The replica did not take the request and the client has seen nothing of an answer."""

    def __init__(self, error: CortexError) -> None:
        super().__init__(str(error))
        self.error = error


class BrokenOff(Exception):
    """The answer had begun, and did not come to its end; *error* is what its client is to hear if nobody goes on."""

    def __init__(self, error: CortexError) -> None:
        super().__init__(str(error))
        self.error = error


class Outcome(msgspec.Struct, eq=False):
    """How a relayed request goes: when the node had it, what has come, the trailer once it is whole.

    `wait_seconds` is what the request had waited for a replica before, `deaths` how many engines had died of it,
    `traceparent` what its client said of the trace that it belongs to; `continuing` has what went out of a streamed
    answer, so that another replica can go on with it.
    """

    trailer: Trailer | None = None
    sent_at: float = msgspec.field(default_factory=time.perf_counter)
    events: int = 0
    bytes: int = 0
    wait_seconds: float = 0.0
    deaths: int = 0
    traceparent: str | None = None
    continuing: Continuing | None = None

    def settle(self, continuing: Continuing) -> None:
        """Count both parts of an answer that was gone on with."""
        if self.trailer is not None and continuing.count:
            usage = continuing.usage(self.trailer.usage)
            self.trailer = msgspec.structs.replace(self.trailer, usage=usage)


class _Unary:
    """Collect a whole answer: until it is whole, another replica can still give it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_UNARY_BYTES:
            raise UpstreamFailed("the node's answer is too large")
        self._pieces.append(data)

    @property
    def body(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _Streaming(_Unary):
    """Pass events on as they come; an answer that is not a stream of events is collected instead."""

    def __init__(
        self,
        stream: EventStream,
        exchange: Exchange,
        connection: Connection,
        asked: Asked,
        headers: Headers,
        outcome: Outcome,
    ) -> None:
        super().__init__()
        self._stream, self._connection, self._headers = stream, connection, headers
        self._wire, self._asked, self._translation, self._outcome = exchange.wire, asked, asked.translation, outcome
        self._continuing = outcome.continuing
        self.relay = EventRelay()
        self.is_events = False

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        super().on_head(status, headers)
        self.is_events = status == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if self.is_events and not self._stream.opened:
            self._stream.headers = [*self._headers, *ignored_header(self._asked, headers)]
            self._stream.open()

    def on_data(self, data: bytes) -> None:
        if not self.is_events:
            super().on_data(data)
            return
        relay, outcome = self.relay, self._outcome
        ready = relay.feed(data)
        if relay.trailer is not None:
            outcome.trailer = relay.trailer
        outcome.events += ready.count(_END_OF_CHUNK)
        outcome.bytes += len(ready)
        if ready and self._continuing is not None:
            ready = self._continuing.take(ready)
        if ready and self._translation is not None:
            ready = self._translation.feed(ready)
        if ready:
            self._stream.write(ready)
            if self._wire.behind and self._wire.when_writable(self._connection.resume):
                self._connection.pause()
        if self._continuing is not None and self._continuing.error is not None:
            self._connection.give_up(self._continuing.error)


class Relay:
    """Requests to replicas over one pool of connections, signed with the nodes' *token* if they have one."""

    def __init__(self, pool: Pool, stall_seconds: float, token: str | None = None) -> None:
        self._pool, self._stall_seconds, self._signature = pool, stall_seconds, header_line(token)

    async def stream(
        self,
        asked: Asked,
        exchange: Exchange,
        stream: EventStream,
        address: Address,
        node: str,
        model: str,
        outcome: Outcome,
    ) -> None:
        """Relay a stream. Raises TryElsewhere while nothing came of an answer, BrokenOff later, or the refusal."""
        sink: _Streaming | None = None

        def sink_for(connection: Connection) -> _Streaming:
            nonlocal sink
            sink = _Streaming(stream, exchange, connection, asked, [(b"x-cortex-node", node.encode())], outcome)
            return sink

        try:
            request = _request(asked, exchange.request_id, address, model, self._signature, outcome)
            await self._send(request, address, sink_for, self._stall_seconds)
        except CortexError as error:
            began = sink is not None and sink.relay.saw_data
            raise (BrokenOff if began else TryElsewhere)(error) from None
        assert sink is not None
        if not sink.is_events:
            raise refusal_of(sink.status, sink.headers, sink.body)
        if outcome.trailer is None:
            cut_short = UpstreamFailed("the node's answer ended before it was whole")
            raise (BrokenOff if sink.relay.saw_data else TryElsewhere)(cut_short)
        if outcome.continuing is not None:
            outcome.settle(outcome.continuing)
        if asked.translation is not None:
            asked.note_timings(outcome.trailer.timings, outcome.wait_seconds)
            stream.write(asked.translation.end())

    async def unary(
        self, asked: Asked, exchange: Exchange, address: Address, node: str, model: str, outcome: Outcome
    ) -> None:
        """Relay a whole answer. Raises TryElsewhere, or the node's refusal as it stands."""
        sink = _Unary()
        try:
            request = _request(asked, exchange.request_id, address, model, self._signature, outcome)
            await self._send(request, address, lambda _: sink, None)
        except CortexError as error:
            raise TryElsewhere(error) from None
        if sink.status != 200 or not sink.headers.get(b"content-type", b"").startswith(b"application/json"):
            raise refusal_of(sink.status, sink.headers, sink.body)
        body = sink.body
        outcome.bytes = len(body)
        outcome.trailer = decode_trailer(sink.headers.get(b"x-cortex-trailer", b""))
        if outcome.trailer is not None:
            asked.note_timings(outcome.trailer.timings, outcome.wait_seconds)
        if asked.translation is not None:
            body = asked.translation.whole(body)
        headers = [JSON, (b"x-cortex-node", node.encode()), *ignored_header(asked, sink.headers)]
        exchange.respond(200, body, headers)

    async def _send(
        self, request: bytes, address: Address, sink_for: Callable[[Connection], _Unary], stall_seconds: float | None
    ) -> None:
        """Send the request on a pooled connection; once more on a fresh one if the pooled one had gone stale."""
        connection = self._pool.idle(address) or await self._pool.fresh(address)
        while True:
            reused, sink = connection.used, sink_for(connection)
            try:
                await connection.exchange(request, sink, stall_seconds)
            except UpstreamFailed:
                if not reused or sink.status:
                    raise
            else:
                return
            finally:
                self._pool.give_back(address, connection)
            connection = await self._pool.fresh(address)


def _request(asked: Asked, request_id: str, address: Address, model: str, signature: str, outcome: Outcome) -> bytes:
    """Return the request for the node: the hub's body byte for byte, and only headers of our own."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    opening = "x-cortex-opening: 1\r\n" if asked.translation is not None else ""
    suspect = f"{DEATHS_HEADER.decode()}: {outcome.deaths}\r\n" if outcome.deaths else ""
    trace = f"traceparent: {outcome.traceparent}\r\n" if outcome.traceparent else ""
    head = (
        f"POST {asked.path} HTTP/1.1\r\nhost: {host}:{address[1]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(asked.body)}\r\nx-request-id: {request_id}\r\n"
        f"x-cortex-model: {model}\r\n{signature}{opening}{suspect}{trace}\r\n"
    )
    return head.encode() + asked.body


def ignored_header(asked: Asked, headers: Mapping[bytes, bytes]) -> Headers:
    """Return the header that names what of a request was ignored, here or by the node whose *headers* are given."""
    told = [name.encode() for name in asked.ignored]
    if b"x-cortex-ignored" in headers:
        told.append(headers[b"x-cortex-ignored"])
    return [(b"x-cortex-ignored", b", ".join(told))] if told else []


def refusal_of(status: int, headers: Mapping[bytes, bytes], body: bytes) -> CortexError | TryElsewhere:
    """Return a node's refusal: for the client as it stands, or for another replica to try.

    What is not in the envelope is not a node's own word, and is nobody's to read; a node that wants a key is the
    gateway's affair, not the client's.
    """
    retry_after = headers.get(b"retry-after")
    error: RemoteError = error_from(status, body, retry_after.decode("latin-1") if retry_after else None)
    if status < 400 or status in (401, 403) or error.code == "upstream_malformed_response":
        return TryElsewhere(UpstreamFailed(f"the node answered HTTP {status}", code="upstream_malformed_response"))
    if headers.get(b"x-should-retry"):
        error.should_retry = headers[b"x-should-retry"] == b"true"
    if status in _ELSEWHERE or (status == 404 and error.code == "model_not_found"):
        return TryElsewhere(error)
    return error
