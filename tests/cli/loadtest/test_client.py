from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cortex.cli.loadtest.client import Client
from cortex.cli.loadtest.samples import Sample
from cortex.cli.loadtest.target import target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def piece(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def said(text: str) -> bytes:
    return piece(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode())


ROLE = piece(b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n')
USAGE = piece(b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}\n\n')
DONE = piece(b"data: [DONE]\n\n")
END = b"0\r\n\r\n"


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*pieces: bytes) -> Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for part in pieces:
            writer.write(part)
            await writer.drain()
        writer.close()

    return serve


def asked(server: Server, requests: int = 1, idle: float = 5.0, heard: list[str] | None = None) -> list[Sample]:
    """Ask *server* so many times on one client, and return what came of it."""

    async def ask() -> list[Sample]:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        listen = (heard if heard is not None else []).append
        async with listening, Client(target(f"http://127.0.0.1:{port}", None), idle, listen) as client:
            return [await client.ask(b"{}") for _ in range(requests)]

    return asyncio.run(ask())


def test_pieces_are_timed_and_the_servers_own_count_is_taken() -> None:
    [sample] = asked(answering(HEAD, ROLE, said("a"), said("b"), USAGE, DONE, END))

    assert sample.error is None
    assert len(sample.pieces) == 2
    assert sample.sent <= sample.pieces[0] <= sample.pieces[1] <= sample.ended
    assert (sample.tokens, sample.prompt_tokens) == (9, 5)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_is_a_token_too(field: str) -> None:
    thought = piece(b'data: {"choices":[{"delta":{"%s":"hm"}}]}\n\n' % field.encode())
    [sample] = asked(answering(HEAD, thought, DONE, END))

    assert len(sample.pieces) == 1
    assert sample.tokens is None


def test_what_a_waiting_client_hears_is_passed_on() -> None:
    heard: list[str] = []
    asked(answering(HEAD, piece(b": loading m: 40%\n\n"), said("a"), DONE, END), heard=heard)

    assert heard == ["loading m: 40%"]


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 30\r\n\r\n", b'{"error":{"message":"no such"}}'[:30]),
            "HTTP 404",
        ),
        ((HEAD, said("a"), END), "the stream ended before [DONE]"),
        ((HEAD, said("a")), "the stream ended before [DONE]"),
        ((HEAD, piece(b'data: {"error":{"message":"it broke"}}\n\n'), END), "it broke"),
        ((HEAD, piece(b"data: not json\n\n"), END), "not an answer in OpenAI's form"),
        ((b"hello\r\n\r\n",), "not an answer in HTTP"),
        ((), "HTTP 0"),
    ],
    ids=["refused", "no terminator", "cut", "error event", "not JSON", "not HTTP", "nothing"],
)
def test_what_is_no_whole_answer_is_an_error_with_its_cause(pieces: tuple[bytes, ...], error: str) -> None:
    [sample] = asked(answering(*pieces))

    assert sample.error is not None
    assert error in sample.error


def test_silence_ends_a_request() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await reader.read()
        writer.close()

    [sample] = asked(silent, idle=0.05)

    assert sample.error == "nothing came for 0.05 s"


def test_a_connection_is_kept_while_the_server_keeps_it() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await request_of(reader)
            writer.write(HEAD + said("a") + DONE + END)
        writer.close()

    samples = asked(serve, requests=2)

    assert [sample.error for sample in samples] == [None, None]
    assert connections == 1


def test_nobody_there_is_an_error_that_names_the_server() -> None:
    async def ask() -> Sample:
        async with Client(target("http://127.0.0.1:1", None), 1.0) as client:
            return await client.ask(b"{}")

    sample = asyncio.run(ask())

    assert sample.error is not None
    assert sample.error.startswith("no connection to 127.0.0.1:1")
