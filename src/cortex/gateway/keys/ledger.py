"""What each key has used, minute by minute: booked in memory, written behind in batches, read back at the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import anyio
from anyio import to_thread

from cortex.core.logging import get_logger

log = get_logger(__name__)

FLUSH_SECONDS = 1.0


class Use(NamedTuple):
    """What the key with the id *key* used in the minute that began at *minute*, in seconds since the epoch."""

    key: str
    minute: int
    requests: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """All tokens: what budgets count."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Total:
    """What a key used over a longer time, and the minute of its last use."""

    requests: int
    tokens: int
    last_minute: int


class StoreError(Exception):
    """The store cannot be read or written now; the message says why."""


class Store(Protocol):
    """Where use is kept. Its methods block, are called from one thread at a time, and raise StoreError."""

    def add(self, uses: Sequence[Use]) -> None:
        """Add *uses* to what is kept of their minutes: all of them or none."""
        ...

    def since(self, start: float) -> list[Use]:
        """Return the uses of minutes that began at *start* or later, the oldest first."""
        ...

    def totals(self, start: float) -> Mapping[str, Total]:
        """Return the sums since *start*, by the id of the key."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Ledger:
    """Owns what is not written yet. One task runs `run`; `record` never waits and never fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unwritten: dict[tuple[str, int], list[int]] = {}
        self._lock = anyio.Lock()
        self._failing = False

    def record(self, key: str, prompt_tokens: int, completion_tokens: int, now: float) -> None:
        """Book one request of *key* on the minute of *now*."""
        at = key, int(now) // 60 * 60
        sums = self._unwritten.get(at)
        if sums is None:
            sums = self._unwritten[at] = [0, 0, 0]
        sums[0] += 1
        sums[1] += prompt_tokens
        sums[2] += completion_tokens

    async def run(self) -> None:
        """Write what was booked, each second at most, until cancelled; then write the rest and close the store."""
        try:
            while True:
                await anyio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            with anyio.CancelScope(shield=True):
                await self.flush()
                if self._unwritten:
                    log.error("ledger_lost", lines=len(self._unwritten))
                await to_thread.run_sync(self._store.close)

    async def flush(self) -> None:
        """Write what was booked. What cannot be written is kept for the next time, a line for each key and minute."""
        async with self._lock:
            if not self._unwritten:
                return
            uses, self._unwritten = self._pending(), {}
            try:
                with anyio.CancelScope(shield=True):  # what was taken out above must reach the store, or come back
                    await to_thread.run_sync(self._store.add, uses)
            except StoreError as error:
                self._put_back(uses)
                if not self._failing:
                    log.warning("ledger_not_written", error=str(error), lines=len(uses))
                self._failing = True
            else:
                self._failing = False

    async def history(self, start: float) -> list[Use]:
        """Return all use since *start*, written or not, the oldest first. Raises StoreError."""
        async with self._lock:
            written = await to_thread.run_sync(self._store.since, start)
            return sorted([*written, *self._pending()], key=lambda use: use.minute)

    async def totals(self, starts: Iterable[float]) -> Mapping[float, Mapping[str, Total]]:
        """Return the sums since each of *starts*, by the id of the key. Raises StoreError."""
        await self.flush()
        async with self._lock:
            return {start: await to_thread.run_sync(self._store.totals, start) for start in starts}

    def _pending(self) -> list[Use]:
        return [Use(key, minute, *sums) for (key, minute), sums in self._unwritten.items()]

    def _put_back(self, uses: Sequence[Use]) -> None:
        for use in uses:
            sums = self._unwritten.setdefault((use.key, use.minute), [0, 0, 0])
            for at, amount in enumerate(use[2:]):
                sums[at] += amount
