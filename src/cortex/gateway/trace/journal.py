"""Take requests that have ended from the data path, and hand them on in batches, off it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import anyio

from cortex.gateway.trace.record import Record

# What comes within so many of a first one goes with it.
DRAIN_SECONDS = 0.05
# More than so many between two drains are counted as dropped, the oldest first.
CAPACITY = 1 << 16
# So many are handed on before others on the loop have their turn.
BATCH = 256

Reader = Callable[[Sequence[Record]], None]


class Journal:
    """Owns what has not been handed on yet. `add` is all that a request pays."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._pending: deque[Record] = deque(maxlen=capacity)
        self._readers: list[Reader] = []
        self._added = self._handed_on = 0
        self._came: anyio.Event | None = None

    @property
    def dropped(self) -> int:
        """How many were lost because they came faster than they were handed on."""
        return self._added - self._handed_on - len(self._pending)

    def add(self, record: Record) -> None:
        """Take *record*; nothing is done with it now but to wake who hands it on."""
        self._added += 1
        self._pending.append(record)
        if self._came is not None:
            self._came.set()
            self._came = None

    def follow(self, reader: Reader) -> None:
        """Have *reader* hear every record from now on, in batches, in order."""
        self._readers.append(reader)

    def drain(self) -> None:
        """Hand on all that there is."""
        while self._pending:
            self._hand_on()

    async def run(self) -> None:
        """Hand on for ever, a little at a time and asleep while nothing comes; the rest at the end."""
        try:
            while True:
                if not self._pending:
                    self._came = came = anyio.Event()
                    await came.wait()
                await anyio.sleep(DRAIN_SECONDS)
                while self._pending:
                    self._hand_on()
                    await anyio.lowlevel.checkpoint()
        finally:
            self.drain()

    def _hand_on(self) -> None:
        batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
        self._handed_on += len(batch)
        for reader in self._readers:
            reader(batch)
