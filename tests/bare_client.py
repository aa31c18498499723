"""One connection, and what is sent on it byte for byte; what comes back has to be valid HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11

from fake_fleet import SOON_SECONDS


@dataclass(frozen=True)
class Sent:
    """A request as it goes out."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def raw(self) -> bytes:
        fields = [(b"host", b"localhost"), (b"content-length", b"%d" % len(self.body)), *self.headers]
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        return f"{self.method} {self.target} HTTP/1.1\r\n".encode("latin-1") + lines + b"\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """An answer; *body* is whole unless the answer has no end."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""


class Line:
    """A connection that is kept for as long as the gateway keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: Sent, *, endless: bool = False) -> Answer:
        """Return the answer to *sent*, or of one that is *endless* the head."""
        async with asyncio.timeout(SOON_SECONDS):
            if self._stream is None:
                self._stream = await asyncio.open_connection("127.0.0.1", self._port)
            self._stream[1].write(sent.raw)
            parser = h11.Connection(h11.CLIENT)
            parser.send(h11.Request(method=sent.method, target="/", headers=[("host", "localhost")]))
            parser.send(h11.EndOfMessage())
            head = await self._event(parser)
            assert isinstance(head, h11.Response)
            headers = dict(head.headers.raw_items())
            answer = Answer(head.status_code, {name.lower(): value for name, value in headers.items()})
            if endless and head.status_code == 200:
                self.hang_up()
                return answer
            pieces = []
            while isinstance(event := await self._event(parser), h11.Data):
                pieces.append(bytes(event.data))
            assert isinstance(event, h11.EndOfMessage), event
        if answer.headers.get(b"connection") == b"close":
            self.hang_up()
        return Answer(answer.status, answer.headers, b"".join(pieces))

    async def _event(self, parser: h11.Connection) -> Any:
        assert self._stream is not None
        while (event := parser.next_event()) is h11.NEED_DATA:
            parser.receive_data(await self._stream[0].read(65536))
        return event

    def hang_up(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()
        self._stream = None
