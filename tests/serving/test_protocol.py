"""The server side of a connection, driven without sockets: bytes in, bytes out, at every chunk border."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cortex.core.errors import ModelNotFound, UpstreamFailed
from cortex.serving import protocol as protocol_module
from cortex.serving.exchange import JSON, Exchange, Handler, shielding
from cortex.serving.protocol import HttpProtocol, Site, protocol_for

BODY = b'{"model":"m"}'


class Transport(asyncio.Transport):
    """Records what is written and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = self.aborted = self.half_closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def echo(exchange: Exchange) -> None:
    exchange.respond(200, exchange.body, [JSON])


async def application(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{scope['method']} {scope['path']} {len(body)}".encode()})


def connection(handler: Handler = echo) -> tuple[HttpProtocol, Transport]:
    site = Site({"/v1/echo": handler}, application)
    state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0)
    connected, transport = protocol_for(site)(None, state, {}), Transport()
    connected.connection_made(transport)
    return connected, transport


def drive(pieces: Iterable[bytes], handler: Handler = echo) -> Transport:
    """Feed *pieces* to a connection, let its handlers finish, and return what came of it."""

    async def run() -> Transport:
        server, transport = connection(handler)
        for piece in pieces:
            server.data_received(piece)
        await settle(server)
        server.connection_lost(None)
        return transport

    return asyncio.run(run())


async def settle(server: HttpProtocol) -> None:
    """Let the handlers run to their end."""
    while server._state.tasks:
        await asyncio.gather(*server._state.tasks, return_exceptions=True)
        await asyncio.sleep(0)


def request(*extra: bytes, method: bytes = b"POST", path: bytes = b"/v1/echo", body: bytes = BODY) -> bytes:
    head = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *extra]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def status_of(sent: bytes) -> int:
    return int(sent.split(b" ")[1])


def error_of(sent: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(sent.partition(b"\r\n\r\n")[2])["error"]
    return value


@pytest.mark.parametrize("whole", [request(), chunked(BODY, 3), chunked(BODY, 100)], ids=["length", "chunks", "chunk"])
def test_a_request_is_read_alike_however_it_is_cut(whole: bytes) -> None:
    for at in range(1, len(whole)):
        transport = drive([whole[:at], whole[at:]])
        assert status_of(transport.sent) == 200, at
        assert transport.sent.endswith(BODY)
    assert drive(bytes([byte]) for byte in whole).sent.endswith(BODY)


def after(first: bytes, pieces: Iterable[bytes]) -> bytes:
    """Return what is answered to *pieces* on a connection that has answered *first*."""

    async def run() -> bytes:
        server, transport = connection()
        server.data_received(first)
        await settle(server)
        transport.sent = b""
        for piece in pieces:
            server.data_received(piece)
        await settle(server)
        server.connection_lost(None)
        return transport.sent

    return asyncio.run(run())


@pytest.mark.parametrize(
    "second",
    [
        request(b"X-Request-Id: r"),
        request(b"X-Request-Id: r", body=b"longer than the first one was"),
        request(b"X-Request-Id: r", body=b""),
        request(b"X-Request-Id: r", b"X-More: 1"),
        request(b"X-Request-Id: r") + request(b"X-Request-Id: r", body=b"2"),
        request(b"X-Request-Id: r", b"Connection: close"),
        request(b"X-Request-Id: r", b"Content-Length: 13"),
        request(b"X-Request-Id: r", b"Transfer-Encoding: chunked"),
        request(b"X-Request-Id: r", path=b"/v1/other"),
        b"GARBAGE\r\n\r\n" + request(b"X-Request-Id: r"),
    ],
)
def test_a_request_is_read_as_on_a_connection_of_its_own_whatever_came_before_it(second: bytes) -> None:
    first = request(b"X-Request-Id: r")
    alone = drive([second]).sent

    for at in range(len(second)):
        pieces = [second[:at], second[at:]] if at else [second]
        assert without_id(after(first, pieces)) == without_id(alone), at


def without_id(sent: bytes) -> bytes:
    """Return *sent* without the request ids that were made up."""
    return re.sub(rb"req-[0-9a-f]+", b"req", sent)


def test_pipelined_requests_are_answered_in_order() -> None:
    first, second = request(body=b'{"n":1}'), request(body=b'{"n":2}')
    sent = drive([first + second]).sent

    assert sent.count(b"HTTP/1.1 200") == 2
    assert sent.index(b'{"n":1}') < sent.index(b'{"n":2}')


def test_everything_else_goes_to_the_application() -> None:
    sent = drive([request(method=b"GET", path=b"//models", body=b"")]).sent

    assert sent.endswith(b"GET /models 0")
    assert b"content-length: 13\r\n" in sent


BAD = {
    "no host": (b"POST /v1/echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    "two hosts": (request(b"Host: y"), 400),
    "two lengths": (request(b"Content-Length: 13"), 400),
    "length and coding": (request(b"Transfer-Encoding: chunked"), 400),
    "another coding": (chunked(BODY, 9).replace(b": chunked", b": gzip, chunked"), 400),
    "a compressed body": (request(b"Content-Encoding: gzip"), 415),
    "a huge length": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n", 413),
    "an endless length": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1" + b"0" * 40 + b"\r\n\r\n", 400),
    "an expectation": (request(b"Expect: teapot"), 417),
    "a version": (request().replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    "many headers": (request(*[b"X-%d: y" % n for n in range(300)]), 431),
    "a long head": (b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70000, 431),
    "a long target": (request(path=b"/" + b"a" * 20000), 431),
    "a tunnel": (b"CONNECT evil:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "not http": (b"\x16\x03\x01\x00\xc8\x01\x00\r\n\r\n", 400),
}


@pytest.mark.parametrize(("raw", "status"), BAD.values(), ids=BAD.keys())
def test_bad_framing_is_answered_once_and_the_connection_ends(raw: bytes, status: int) -> None:
    transport = drive([raw, raw, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])

    assert status_of(transport.sent) == status
    assert after(raw, [raw]) == b""
    assert transport.sent.count(b"\r\nx-request-id: ") == 1
    assert transport.half_closed or transport.closed


def test_a_method_that_is_not_offered_is_answered_and_the_connection_lives() -> None:
    transport = drive([request(method=b"TRACE"), request()])

    assert status_of(transport.sent) == 405
    assert transport.sent.endswith(BODY)


def test_a_body_that_grows_past_the_limit_is_refused_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_module, "MAX_BODY_BYTES", 10)
    assert status_of(drive([chunked(b"x" * 11, 4)]).sent) == 413


@pytest.mark.parametrize(
    ("before", "piece"), [(b"3;", b"a" * 1000), (b"0\r\nX: ", b"a" * 1000)], ids=["extension", "trailer"]
)
def test_what_frames_a_body_is_bounded_as_the_head_is(before: bytes, piece: bytes) -> None:
    """The parser takes a chunk's extension and a trailer's value for as long as they come."""
    head = chunked(b"", 1).removesuffix(b"0\r\n\r\n")

    assert status_of(drive([head + before + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n"]).sent) == 431
    assert drive([head, before, *[piece] * 60]).sent == b""
    assert status_of(drive([head, before, *[piece] * 70]).sent) == 431


def test_a_body_in_very_many_chunks_is_no_more_framing_than_it_needs() -> None:
    body = b"x" * 50_000
    whole = chunked(body, 1)
    answer = drive([whole[at : at + 4096] for at in range(0, len(whole), 4096)])

    assert status_of(answer.sent) == 200
    assert answer.sent.endswith(body)


def test_a_wish_for_another_protocol_is_ignored() -> None:
    wish = request(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMA")
    for at in range(1, len(wish)):
        sent = drive([wish[:at], wish[at:]]).sent
        assert status_of(sent) == 200, at
        assert sent.endswith(BODY)


def test_a_client_that_waits_for_leave_gets_it() -> None:
    sent = drive([request(b"Expect: 100-continue")]).sent
    assert sent.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("offered", "kept"), [(b"abc-1.2_3", True), (b"a" * 129, False), (b"a b", False), (b"\xff", False), (b"", False)]
)
def test_a_request_id_is_kept_only_if_it_is_safe(offered: bytes, kept: bool) -> None:
    sent = drive([request(b"X-Request-Id: " + offered)]).sent
    assert (b"x-request-id: " + offered + b"\r\n" in sent) is kept


def test_an_http_1_0_client_gets_its_answer_and_the_end_of_the_connection() -> None:
    async def streaming(exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"piece")
        exchange.finish()

    transport = drive([request().replace(b"HTTP/1.1", b"HTTP/1.0")], streaming)
    assert transport.sent.endswith(b"connection: close\r\n\r\npiece")
    assert transport.closed


def raising(error: Exception, *, after_start: bool, last_words: Callable[[Any], bytes] | None = None) -> Handler:
    async def handler(exchange: Exchange) -> None:
        if after_start:
            exchange.last_words = last_words
            exchange.start(200, [])
            exchange.write(b"begun")
        raise error

    return handler


def test_an_error_is_an_answer_while_it_can_be_one() -> None:
    sent = drive([request()], raising(ModelNotFound("m", ["n"]), after_start=False)).sent

    assert status_of(sent) == 404
    assert error_of(sent)["code"] == "model_not_found"


def test_an_unforeseen_error_is_a_500_that_tells_nothing_of_its_inside() -> None:
    sent = drive([request()], raising(RuntimeError("secret"), after_start=False)).sent

    assert status_of(sent) == 500
    assert b"secret" not in sent


def test_an_answer_that_breaks_never_looks_whole() -> None:
    broken = drive([request()], raising(UpstreamFailed("gone"), after_start=True))
    last_words = raising(UpstreamFailed("gone"), after_start=True, last_words=lambda error: error.message.encode())
    told = drive([request()], last_words)

    assert broken.aborted
    assert not broken.sent.endswith(b"0\r\n\r\n")
    assert told.sent.endswith(b"4\r\ngone\r\n0\r\n\r\n")
    assert told.closed
    assert not told.aborted


async def waiting(exchange: Exchange) -> None:
    await asyncio.get_running_loop().create_future()


async def shielded(exchange: Exchange) -> None:
    """Wait for ever, and when cut off finish what must be finished."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await asyncio.sleep(0)
        exchange.told = b"finished"


@pytest.mark.parametrize("how", ["eof", "reset", "eof and reset"])
def test_a_client_that_goes_cancels_its_handler_which_may_still_clean_up(how: str) -> None:
    exchanges: list[Exchange] = []

    async def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)
        await shielded(exchange)

    async def run() -> None:
        server, _ = connection(shielding(handler))
        server.data_received(request())
        await asyncio.sleep(0)
        if "eof" in how:
            assert not server.eof_received()
            await asyncio.sleep(0)
        if "reset" in how:
            server.connection_lost(None)
        await settle(server)
        server.connection_lost(None)

        assert exchanges[0].told == b"finished"
        assert server._state.connections == set()

    asyncio.run(run())


@pytest.mark.parametrize("draining", [False, True])
def test_a_drain_refuses_what_is_new_and_still_tells_its_health(draining: bool) -> None:
    async def run(raw: bytes) -> bytes:
        server, transport = connection()
        server.site.drain.begun = draining
        server.data_received(raw)
        await settle(server)
        server.connection_lost(None)
        return transport.sent

    assert status_of(asyncio.run(run(request()))) == (503 if draining else 200)
    assert status_of(asyncio.run(run(request(method=b"GET", path=b"/health", body=b"")))) == 200


def test_a_slow_reader_holds_the_writer_and_nobody_else() -> None:
    async def run() -> None:
        caught_up = asyncio.Event()
        server, _ = connection(waiting)
        assert not server.when_writable(caught_up.set)
        server.pause_writing()
        writer = asyncio.ensure_future(server.writable())
        assert server.when_writable(caught_up.set)
        await asyncio.sleep(0)
        assert not writer.done()
        server.resume_writing()
        await writer
        await asyncio.wait_for(caught_up.wait(), 1)
        server.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    "cut", [b"POST /v1/echo HT", request()[:-3], b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n"], ids=["line", "body", "head"]
)
def test_a_request_that_stops_arriving_is_a_timeout(cut: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_module, "HEAD_SECONDS", 0.01)
    monkeypatch.setattr(protocol_module, "BODY_IDLE_SECONDS", 0.01)

    async def run() -> bytes:
        server, transport = connection()
        server.data_received(cut)
        while not transport.sent:
            await asyncio.sleep(0.001)
        server.connection_lost(None)
        return transport.sent

    assert status_of(asyncio.run(asyncio.wait_for(run(), 5))) == 408
