"""Bound how long an engine may take to its first token, and from one token to the next, so that no client hangs."""

from __future__ import annotations

import asyncio
from types import TracebackType

import anyio

from cortex.core.errors import UpstreamTimeout


class Patience:
    """Ends what runs inside it, with UpstreamTimeout, when no token is `heard` in time. Nothing limits the whole.

    While `reader_is_behind` the silence is the client's, and does not count.
    """

    def __init__(self, first_token_seconds: float, idle_token_seconds: float) -> None:
        self._limit, self._idle_seconds = first_token_seconds, idle_token_seconds
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._scope = anyio.CancelScope()
        self._timer: asyncio.TimerHandle | None = None
        self.reader_is_behind = False

    def __enter__(self) -> Patience:
        self._scope.__enter__()
        self._timer = self._loop.call_later(self._limit, self._check)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._timer is not None
        self._timer.cancel()
        swallowed = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise UpstreamTimeout(f"the engine gave no token for {self._limit:g} s")
        return swallowed

    def heard(self) -> None:
        """Take note of a token."""
        self._last = self._loop.time()
        if self._limit != self._idle_seconds and self._timer is not None:
            self._limit = self._idle_seconds
            self._timer.cancel()
            self._timer = self._loop.call_at(self._last + self._limit, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if self.reader_is_behind:
            self._last = now
        if now - self._last >= self._limit * 0.999:
            self._scope.cancel()
        else:
            self._timer = self._loop.call_at(self._last + self._limit, self._check)
