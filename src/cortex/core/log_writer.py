"""Write log lines: those of one turn of an event loop in one piece, those of trouble and of threads at once."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TextIO


class LineWriter:
    """Owns the lines that are not written yet: none is older than the turn of the loop that it was told in.

    It is what structlog calls a logger. A full disk or a closed terminal costs the lines, never who tells them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._scheduled: asyncio.AbstractEventLoop | None = None

    def msg(self, line: str) -> None:
        """Write *line* with others of this turn."""
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()  # no loop here: a thread, or a program that has not begun or is over
            return
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what there is. Any thread may."""
        self._scheduled = None
        lines = []
        with suppress(IndexError):
            while True:
                lines.append(self._lines.popleft())
        if lines:
            with suppress(OSError, ValueError):
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
