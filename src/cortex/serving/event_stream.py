"""A stream of server-sent events that begins within a moment and is never silent for longer than a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from cortex.core.errors import CortexError
from cortex.serving.exchange import EVENT_STREAM, UNBUFFERED, Exchange
from cortex.serving.head import Headers
from cortex.wire.errors import openai_event
from cortex.wire.sse import KEEP_ALIVE


class EventStream:
    """The answer of *exchange* as events.

    The head waits for the first event, so that a refusal can still be a clean status; after *patience_seconds* it goes
    out with a comment, and from then on a comment fills every second in which nothing else was sent. *last_words* is
    how it ends when its handler fails after that.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        headers: Headers | None = None,
        content_type: bytes = EVENT_STREAM,
        patience_seconds: float,
        every_seconds: float = 1.0,
        comment: Callable[[], bytes] = lambda: KEEP_ALIVE,
        last_words: Callable[[CortexError], bytes] = openai_event,
    ) -> None:
        self._exchange, self._comment, self._last_words = exchange, comment, last_words
        self.headers: Headers = headers or []
        self._content_type = content_type
        self._patience, self._every = patience_seconds, every_seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._last_write = 0.0

    def __enter__(self) -> EventStream:
        self._timer = self._loop.call_later(self._patience, self._pulse)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def opened(self) -> bool:
        """Whether the head is out, so that a failure can no longer be a status."""
        return self._exchange.started

    def open(self) -> None:
        """Send the head now."""
        if not self._exchange.started:
            self._exchange.last_words = self._last_words
            self._exchange.start(200, [(b"content-type", self._content_type), *UNBUFFERED, *self.headers])

    def write(self, data: bytes) -> None:
        """Send whole events; they may be several."""
        exchange = self._exchange
        if not exchange.started:
            self.open()
        self._last_write = self._loop.time()
        exchange.write(data)

    async def writable(self) -> None:
        """Wait for a slow reader."""
        await self._exchange.writable()

    def finish(self) -> None:
        """End the stream."""
        self.open()
        self._exchange.finish()

    def _pulse(self) -> None:
        """Break a silence, and look again when the next one would be a second long."""
        now = self._loop.time()
        if self._exchange.finished:
            return
        if now - self._last_write >= self._every * 0.999:
            self.write(self._comment())
            now = self._last_write
        self._timer = self._loop.call_at(self._last_write + self._every, self._pulse)
