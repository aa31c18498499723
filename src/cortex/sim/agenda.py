"""Owns virtual time: what is to happen, in order of time, and of what was arranged first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Agenda:
    """`now` is in seconds since the start, and moves only by `step`; `steps` counts what has happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._arranged = 0

    def at(self, time: float, do: Callable[..., None], *args: Any) -> None:
        """Have *do* called with *args* at *time*; what is past already happens next."""
        self._arranged += 1
        heapq.heappush(self._heap, (max(time, self.now), self._arranged, do, args))

    def after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        """Have *do* called with *args* in so many *seconds*."""
        self.at(self.now + seconds, do, *args)

    def step(self) -> None:
        """Go to what is next, and do it. Raises IndexError if nothing is."""
        self.now, _, do, args = heapq.heappop(self._heap)
        self.steps += 1
        do(*args)
