"""What happens in the fleet, as it happens: the last few thousand entries, and whoever listens."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio

CAPACITY = 5000
# One that reads slower than things happen loses entries, and is told how many; it holds nobody up.
LISTENER_CAPACITY = 1000


class Feed:
    """Owns the entries: each is a dict with `seq`, `time` (Unix seconds), `kind`, and what belongs to the kind."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=capacity)
        self._listeners: set[Listener] = set()
        self._seq = 0

    def publish(self, time: float, kind: str, **keys: Any) -> None:
        """Add an entry, and tell it to all who listen."""
        self._seq += 1
        entry = {"seq": self._seq, "time": time, "kind": kind, **keys}
        self._entries.append(entry)
        for listener in self._listeners:
            listener.tell(entry)

    def pass_on(self, time: float, kind: str, **keys: Any) -> None:
        """Tell those who listen now, and keep nothing: what comes too often to be kept."""
        entry = {"seq": self._seq, "time": time, "kind": kind, **keys}
        for listener in self._listeners:
            listener.tell(entry)

    @property
    def listened(self) -> bool:
        """Whether anyone listens."""
        return bool(self._listeners)

    def entries(self, *, after: int = 0, model: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return the last *limit* entries later than number *after*, of *model* if one is given, oldest first."""
        found = [e for e in self._entries if e["seq"] > after and (model is None or e.get("model") == model)]
        return found[-limit:] if limit else []

    @contextmanager
    def listener(self, after: int | None = None) -> Generator[Listener, None, None]:
        """Listen, from the entries kept after number *after* on (None: from now on)."""
        listener = Listener()
        for entry in self.entries(after=after, limit=CAPACITY) if after is not None else ():
            listener.tell(entry)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class Listener:
    """One who listens, with what it has not heard yet."""

    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any]] = deque()
        self._some = anyio.Event()
        self._missed = 0

    def tell(self, entry: dict[str, Any]) -> None:
        """Take one more entry; beyond what fits, the oldest is missed for it."""
        if len(self._waiting) >= LISTENER_CAPACITY:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(entry)
        self._some.set()

    async def next(self, seconds: float) -> dict[str, Any] | None:
        """Return the next entry, or None when there is none for so many *seconds*; `missed` is a gap before it."""
        if not self._waiting:
            self._some = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._some.wait()
        if not self._waiting:
            return None
        if self._missed:
            count, self._missed = self._missed, 0
            first = self._waiting[0]
            return {"seq": first["seq"] - 1, "time": first["time"], "kind": "missed", "count": count}
        return self._waiting.popleft()
