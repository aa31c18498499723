"""Connections to nodes: every chunk border, every way an answer can end, and what is kept for the next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cortex.core.errors import UpstreamFailed, UpstreamTimeout
from cortex.gateway import upstream
from cortex.gateway.upstream import Connection, Pool
from cortex.wire.openai import CHAT
from fake_fleet import Call, FakeFleet, FakeNode, soon, until

pytestmark = pytest.mark.anyio

REQUEST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nTrailing: x\r\n\r\n"
)
INFORMED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + WITH_LENGTH


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, dict[bytes, bytes](), b""
        self.heads = 0
        self.began = asyncio.Event()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status, self.headers = status, headers
        self.heads += 1

    def on_data(self, data: bytes) -> None:
        self.body += data
        self.began.set()


class Transport(asyncio.Transport):
    """Takes everything and records whether it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


async def feed(pieces: Iterable[bytes]) -> tuple[Recorder, Connection]:
    """Exchange one request on a connection to which *pieces* arrive."""
    connection, sink = Connection(asyncio.get_running_loop()), Recorder()
    connection.connection_made(Transport())
    task = asyncio.ensure_future(connection.exchange(REQUEST, sink, None))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    await soon(task)
    return sink, connection


@asynccontextmanager
async def pool_of(seconds: float = 1.0) -> AsyncGenerator[Pool, None]:
    pool = Pool(seconds)
    yield pool
    pool.close()


async def exchange(pool: Pool, node: FakeNode, sink: Recorder | None = None, stall: float | None = None) -> Recorder:
    """Send a request over *pool* and give the connection back, as the relay does."""
    connection, sink = await pool.take(node.address), sink or Recorder()
    try:
        await soon(connection.exchange(REQUEST, sink, stall))
    finally:
        pool.give_back(node.address, connection)
    return sink


@pytest.mark.parametrize("answer", [WITH_LENGTH, CHUNKED, INFORMED], ids=["length", "chunked", "informational"])
async def test_an_answer_is_read_alike_however_it_is_cut(answer: bytes) -> None:
    cuts = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    for pieces in [[answer], *cuts, [bytes([byte]) for byte in answer]]:
        sink, connection = await feed(pieces)

        assert (sink.heads, sink.status, sink.body) == (1, 200, b"hello world"), pieces
        assert sink.headers[b"content-type"] == b"text/x"
        assert b"link" not in sink.headers
        assert connection.open


@pytest.mark.parametrize(
    "more", [WITH_LENGTH, WITH_LENGTH[:20], b"garbage"], ids=["an answer", "half an answer", "garbage"]
)
async def test_bytes_beyond_the_answer_reach_nobody_and_end_the_connection(more: bytes) -> None:
    sink, connection = await feed([WITH_LENGTH + more])

    assert (sink.heads, sink.body) == (1, b"hello world")
    assert not connection.open


async def test_an_answer_with_connection_close_is_whole_and_its_connection_is_not_kept() -> None:
    sink, connection = await feed([WITH_LENGTH.replace(b"text/x", b"text/x\r\nConnection: close")])

    assert sink.body == b"hello world"
    assert not connection.open


async def test_a_connection_serves_one_request_after_the_other(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with pool_of() as pool:
        bodies = {(await exchange(pool, node)).body for _ in range(5)}

    assert len(bodies) == 1
    assert (len(node.asked()), node.connections) == (5, 1)


async def test_requests_at_the_same_time_have_a_connection_each(fleet: FakeFleet) -> None:
    node = await fleet.node()
    together = asyncio.Barrier(3)

    async def answer(call: Call) -> None:
        await together.wait()
        await call.answer()

    node.script(answer)
    async with pool_of() as pool:
        await asyncio.gather(*(exchange(pool, node) for _ in range(3)))

    assert node.connections == 3


@pytest.mark.parametrize("how", ["hang_up", "reset"])
@pytest.mark.parametrize("sent", [b"", WITH_LENGTH[:30], WITH_LENGTH[:-3], CHUNKED[:-5]], ids=["", "head", "body", "0"])
async def test_a_connection_that_ends_before_the_answer_does_is_a_failure(
    fleet: FakeFleet, how: str, sent: bytes
) -> None:
    node = await fleet.node()

    async def cut(call: Call) -> None:
        await call.send(sent)
        getattr(call, how)()

    node.script(cut)
    async with pool_of() as pool:
        with pytest.raises(UpstreamFailed, match="before the answer was whole"):
            await exchange(pool, node)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
    ],
    ids=["ssh", "tls", "two lengths", "a bad chunk", "another protocol", "a long header", "many headers"],
)
async def test_what_is_not_http_is_a_failure_and_ends_the_connection(fleet: FakeFleet, answer: bytes) -> None:
    node = await fleet.node()
    node.script(lambda call: call.send(answer))
    async with pool_of() as pool:
        with pytest.raises(UpstreamFailed) as caught:
            await exchange(pool, node)

        assert caught.value.code == "upstream_malformed_response"
        await (await node.call()).caller_left()


async def test_an_answer_that_its_sink_refuses_ends_the_connection(fleet: FakeFleet) -> None:
    class Refusing(Recorder):
        def on_data(self, data: bytes) -> None:
            raise UpstreamFailed("too large")

    node = await fleet.node()
    async with pool_of() as pool:
        with pytest.raises(UpstreamFailed, match="too large"):
            await exchange(pool, node, Refusing())

        await (await node.call()).caller_left()


async def test_a_node_that_cannot_be_reached_is_a_failure(fleet: FakeFleet) -> None:
    node = await fleet.node()
    await node.stop()
    async with pool_of() as pool:
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await exchange(pool, node)


async def test_a_silent_node_is_given_up_after_the_idle_limit(fleet: FakeFleet) -> None:
    node = await fleet.node()

    async def stall(call: Call) -> None:
        await call.send(WITH_LENGTH[:-3])
        await call.caller_left()

    node.script(stall)
    async with pool_of() as pool:
        sink = Recorder()
        with pytest.raises(UpstreamTimeout):
            await exchange(pool, node, sink, stall=0.05)

    assert sink.body == b"hello wo"


async def test_a_node_that_is_slow_but_not_silent_is_not_given_up(fleet: FakeFleet) -> None:
    node = await fleet.node()

    async def trickle(call: Call) -> None:
        for byte in WITH_LENGTH:
            await call.send(bytes([byte]))
            await asyncio.sleep(0.005)

    node.script(trickle)
    async with pool_of() as pool:
        assert (await exchange(pool, node, stall=0.2)).body == b"hello world"


async def test_time_in_which_the_reader_is_paused_is_no_silence(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(lambda call: call.send(WITH_LENGTH[:-3]))
    async with pool_of() as pool:
        connection, sink = await pool.take(node.address), Recorder()
        task = asyncio.ensure_future(connection.exchange(REQUEST, sink, 0.05))
        await soon(sink.began.wait())
        connection.pause()
        await asyncio.wait([task], timeout=0.2)
        assert not task.done()
        connection.resume()
        with pytest.raises(UpstreamTimeout):
            await soon(task)
        pool.give_back(node.address, connection)


async def test_a_pause_ends_with_the_request_it_was_for(fleet: FakeFleet) -> None:
    """A client that left while it was behind never resumes; the next request on the connection must not wait for it."""

    class Pausing(Recorder):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            connection.pause()

    node = await fleet.node()
    async with pool_of() as pool:
        connection = await pool.take(node.address)
        await soon(connection.exchange(REQUEST, Pausing(), 0.2))
        pool.give_back(node.address, connection)
        sink = await exchange(pool, node, stall=0.2)

    assert sink.status == 200
    assert node.connections == 1


async def test_a_request_on_a_connection_that_has_ended_fails_at_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with pool_of() as pool:
        connection = await pool.take(node.address)
        connection.abort()
        await asyncio.sleep(0)
        with pytest.raises(UpstreamFailed):
            await asyncio.wait_for(connection.exchange(REQUEST, Recorder(), None), 1)
        pool.give_back(node.address, connection)


async def test_a_node_that_stops_in_the_middle_of_a_large_request_is_a_failure_at_once() -> None:
    async def half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await asyncio.wait([over])
        writer.transport.abort()

    over = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(half_close, "127.0.0.1", 0, limit=1 << 10)
    size = 32 << 20
    request = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b" " * size
    try:
        async with pool_of() as pool:
            connection = await pool.take(server.sockets[0].getsockname())
            with pytest.raises(UpstreamFailed):
                await asyncio.wait_for(connection.exchange(request, Recorder(), None), 1)
    finally:
        over.set_result(None)
        server.close()


async def test_cancelling_closes_the_connection_at_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(Call.caller_left)
    async with pool_of() as pool:
        task = asyncio.ensure_future(exchange(pool, node))
        call = await node.call()
        task.cancel()
        await asyncio.wait([task])

        await asyncio.wait_for(call.caller_left(), 0.5)
        assert task.cancelled()


async def test_a_node_that_speaks_unasked_is_not_trusted_with_the_next_request(fleet: FakeFleet) -> None:
    node = await fleet.node()

    async def talkative(call: Call) -> None:
        await call.answer()
        await asked_again.wait()
        await call.send(WITH_LENGTH)
        await call.caller_left()

    node.script(talkative)
    asked_again = asyncio.Event()
    async with pool_of() as pool:
        await exchange(pool, node)
        connection = await pool.take(node.address)
        pool.give_back(node.address, connection)
        asked_again.set()
        await until(lambda: not connection.open)
        node.script(Call.answer)
        await exchange(pool, node)

    assert node.connections == 2


async def test_an_idle_connection_that_the_node_closed_is_not_used(fleet: FakeFleet) -> None:
    node = await fleet.node()

    async def once(call: Call) -> None:
        await call.answer()
        call.hang_up()

    node.script(once)
    async with pool_of() as pool:
        for _ in range(3):
            connection = await pool.take(node.address)
            await soon(connection.exchange(REQUEST, Recorder(), None))
            pool.give_back(node.address, connection)
            await until(lambda c=connection: not c.open)

    assert node.connections == 3


async def test_connections_that_ended_while_idle_do_not_crowd_out_live_ones(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "MAX_IDLE_PER_NODE", 2)
    node = await fleet.node()
    async with pool_of() as pool:
        old = [await pool.take(node.address) for _ in range(2)]
        for connection in old:
            pool.give_back(node.address, connection)
            connection.abort()
        new = [await pool.fresh(node.address) for _ in range(3)]
        for connection in new:
            pool.give_back(node.address, connection)

        assert [connection.open for connection in new] == [True, True, False]


async def test_a_node_taken_for_dead_loses_all_its_connections_at_once(fleet: FakeFleet) -> None:
    dead, alive = await fleet.node("dead"), await fleet.node("alive")
    dead.script(Call.caller_left)
    async with pool_of() as pool:
        await exchange(pool, alive)
        idle = await pool.take(dead.address)
        tasks = [asyncio.ensure_future(exchange(pool, dead)) for _ in range(4)]
        await dead.call(number=4)
        pool.give_back(dead.address, idle)
        pool.drop(dead.address)
        errors = await soon(asyncio.gather(*tasks, return_exceptions=True))
        await exchange(pool, alive)

        assert [type(error) for error in errors] == [UpstreamFailed] * 4
        assert not idle.open
        assert alive.connections == 1
