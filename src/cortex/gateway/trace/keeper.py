"""Keep the stories of requests: in memory for a moment, then in the store, written behind by a thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from anyio import to_thread

from cortex.core.logging import get_logger
from cortex.fleet.view import Spot
from cortex.fleet.work import Event
from cortex.gateway.trace.history import MINUTE_SECONDS, History, Minute
from cortex.gateway.trace.journal import Journal
from cortex.gateway.trace.kept import Trace, kept
from cortex.gateway.trace.loads import Decided
from cortex.gateway.trace.record import Record
from cortex.gateway.trace.store import TraceStore, TraceStoreError, Wanted

log = get_logger(__name__)

FLUSH_SECONDS = 5.0
REMEMBERED_DECISIONS = 4000
Look = Callable[[], tuple[int, int]]
"""How many requests wait, and how many are under way."""


class Keeper:
    """Owns what is not in the store yet: the last *keep* records, the minutes, and what was decided lately."""

    def __init__(self, journal: Journal, store: TraceStore, keep: int) -> None:
        self._journal, self._store = journal, store
        self._unwritten: deque[Record] = deque(maxlen=keep)
        self._decided: deque[Decided] = deque(maxlen=REMEMBERED_DECISIONS)
        self._history = History()
        self._listeners: list[Callable[[Sequence[Trace]], None]] = []
        self._closing: list[Callable[[], None]] = [store.close]
        self._progress: Callable[[Spot], str] = lambda _: ""
        self._look: Look = lambda: (0, 0)
        self._lock = anyio.Lock()
        self._failing = False
        journal.follow(self._take)

    def observe(self, look: Look, progress: Callable[[Spot], str]) -> None:
        """Ask *look* how busy the gateway is, and *progress* how far a load is that nobody waits for any more."""
        self._look, self._progress = look, progress

    def follow(self, listener: Callable[[Sequence[Trace]], None], close: Callable[[], None]) -> None:
        """Have *listener* hear every story, in batches, in the thread that writes them, and *close* the end."""
        self._listeners.append(listener)
        self._closing.append(close)

    def decided(self, event: Event, at: float) -> None:
        """Remember a decision, made at *at* by `time.perf_counter`, for those who wait for what comes of it."""
        self._decided.append(Decided(at, event))
        self._history.decided(event, time.time())

    def _take(self, records: Sequence[Record]) -> None:
        self._unwritten.extend(records)
        self._history.count(records, _epoch())

    async def run(self) -> None:
        """Write what is new, every few seconds, until cancelled; then write the rest and close the store."""
        try:
            await self._go_on()
            while True:
                await anyio.sleep(FLUSH_SECONDS)
                self._history.look(*self._look(), time.time())
                await self.flush()
        finally:
            with anyio.CancelScope(shield=True):
                await self.flush()
                for close in self._closing:
                    await to_thread.run_sync(close)

    async def _go_on(self) -> None:
        """Go on counting in the minute that was under way when the gateway was stopped, if it still is."""
        try:
            since = time.time() - MINUTE_SECONDS
            self._history.begin_with(await to_thread.run_sync(self._store.minutes, since))
        except TraceStoreError as error:
            log.warning("history_not_read", error=str(error))

    async def flush(self) -> None:
        """Write what is new. What cannot be written is kept for the next time, as far as it fits."""
        async with self._lock:
            self._journal.drain()
            records, decided = list(self._unwritten), list(self._decided)
            minutes = self._history.unwritten(time.time())
            if not records and not minutes:
                return
            self._unwritten.clear()
            try:
                with anyio.CancelScope(shield=True):  # what was taken out above must reach the store, or come back
                    await to_thread.run_sync(self._write, records, decided, minutes)
            except TraceStoreError as error:
                self._unwritten.extendleft(reversed(records[: (self._unwritten.maxlen or 0) - len(self._unwritten)]))
                self._history.begin_with(minutes)
                if not self._failing:
                    log.warning("traces_not_written", error=str(error), requests=len(records))
                self._failing = True
            else:
                self._failing = False

    def _write(self, records: Sequence[Record], decided: Sequence[Decided], minutes: Sequence[Minute]) -> None:
        by_model: dict[str, list[Decided]] = {}
        for one in decided:
            by_model.setdefault(one.event.model, []).append(one)
        traces = [self._told(record, by_model.get(record.model, ())) for record in records]
        for listener in self._listeners:
            listener(traces)
        self._store.add(traces, minutes, time.time())

    def _told(self, record: Record, decided: Sequence[Decided]) -> Trace:
        trace = kept(record, _epoch(), decided)
        for load in trace.loads:
            if load.unfinished:
                load.unfinished = self._progress((load.node, record.model)) or load.unfinished
        return trace

    # reading ----------------------------------------------------------------------------------------------------------

    async def find(self, id: str) -> Trace | None:
        """Return the last request called *id*. Raises TraceStoreError."""
        await self.flush()
        return await to_thread.run_sync(self._store.find, id)

    async def search(self, wanted: Wanted) -> list[Trace]:
        """Return the requests that are *wanted*. Raises TraceStoreError."""
        await self.flush()
        return await to_thread.run_sync(self._store.search, wanted)

    async def minutes(self, since: float) -> list[Minute]:
        """Return the minutes since *since*, in seconds since 1970. Raises TraceStoreError."""
        self._history.look(*self._look(), time.time())
        await self.flush()
        return await to_thread.run_sync(self._store.minutes, since)


def _epoch() -> float:
    """Return when `time.perf_counter` was 0, in seconds since 1970."""
    return time.time() - time.perf_counter()
