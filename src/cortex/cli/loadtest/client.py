"""One client of a load test: a connection that is kept, and one streamed request after the other on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httptools
import msgspec

from cortex.cli.loadtest.samples import Sample
from cortex.cli.loadtest.target import Target
from cortex.cli.sse_client import Comment, Data, SseReader
from cortex.wire.errors import error_from

READ_BYTES = 1 << 16
CONNECT_SECONDS = 5.0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None
    prompt_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)


@dataclass
class _Answer:
    """Collects what httptools finds in an answer; tells each piece of it as it comes."""

    on_wait: Callable[[str], None]
    status: int = 0
    whole: bool = False
    kept: bool = False
    done: bool = False
    pieces: list[float] = field(default_factory=list)
    usage: _Usage | None = None
    refusal: bytes = b""
    error: str | None = None
    _reader: SseReader = field(default_factory=SseReader)
    parser: httptools.HttpResponseParser = field(init=False)

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_message_complete(self) -> None:
        self.whole, self.kept = True, self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self.status != 200:
            self.refusal += body
            return
        now = time.perf_counter()
        for event in self._reader.feed(body):
            if isinstance(event, Comment):
                self.on_wait(event.text)
            else:
                self._event(event, now)

    def _event(self, event: Data, now: float) -> None:
        if event.text == "[DONE]":
            self.done = True
            return
        try:
            chunk = _chunk.decode(event.text)
        except (msgspec.MsgspecError, RecursionError) as failure:
            self.error = f"not an answer in OpenAI's form: {failure}"
            return
        if chunk.error is not None:
            self.error = str(error_from(500, msgspec.json.encode({"error": chunk.error})))
        self.usage = chunk.usage or self.usage
        if any(c.delta.content or c.delta.reasoning_content or c.delta.reasoning for c in chunk.choices):
            self.pieces.append(now)

    def why_not(self) -> str | None:
        """Return what is wrong with the answer, None if it is whole."""
        if self.status != 200:
            return f"HTTP {self.status}: {error_from(self.status, self.refusal)}"
        if self.error is not None:
            return self.error
        return None if self.done else "the stream ended before [DONE]"


class Client:
    """Owns one connection to *target*, opened when there is none; *idle* seconds of silence end a request."""

    def __init__(self, target: Target, idle: float, on_wait: Callable[[str], None] = lambda text: None) -> None:
        self._target, self._idle, self._on_wait = target, idle, on_wait
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def ask(self, body: bytes) -> Sample:
        """Send *body* and return what came of it; what goes wrong on the way is the sample's error."""
        sent = time.perf_counter()
        answer = _Answer(self._on_wait)
        try:
            reader, writer = await self._connected()
            sent = time.perf_counter()
            writer.write(self._target.request(body))
            while not answer.whole:
                received = await asyncio.wait_for(reader.read(READ_BYTES), self._idle)
                if not received:
                    break
                answer.parser.feed_data(received)
            error = answer.why_not()
        except TimeoutError:
            error = f"nothing came for {self._idle:g} s"
        except OSError as failure:
            error = f"no connection to {self._target.authority}: {failure.strerror or failure}"
        except httptools.HttpParserError as failure:
            error = f"not an answer in HTTP: {failure}"
        if error is not None or not answer.kept:
            await self._close()
        usage = answer.usage or _Usage()
        ended = time.perf_counter()
        return Sample(sent, tuple(answer.pieces), ended, usage.completion_tokens, usage.prompt_tokens, error)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            await self._close()
            target = self._target
            opening = asyncio.open_connection(target.host, target.port, ssl=target.tls, limit=READ_BYTES)
            self._streams = await asyncio.wait_for(opening, CONNECT_SECONDS)
        return self._streams

    async def _close(self) -> None:
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
