"""Owns the requests under way in one replica, and how far each one is: they share it, and slow each other down."""

from __future__ import annotations

import heapq
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")


class _Milestone(NamedTuple, Generic[R]):
    """At which work a request has its first token, or is done; equal ones in the order of their starts."""

    work: float
    number: int
    request: R
    is_done: bool


class Slots(Generic[R]):
    """`count` requests at once, each at its own speed if it is alone; each further one slows all down by `slowdown`.

    All advance alike, so one clock tells the work done for each: a milestone is where it stood at the start, and the
    work up to there. Work is in seconds of a request that is alone.
    """

    def __init__(self, count: int, slowdown: float, now: float) -> None:
        self.count = count
        self.requests: list[R] = []
        self._slowdown, self._at, self._work = slowdown, now, 0.0
        self._milestones: list[_Milestone[R]] = []
        self._number = 0

    def start(self, request: R, first_seconds: float, rest_seconds: float, now: float) -> None:
        """Begin with *request*: so much work to its first token, and so much from there to its end."""
        self._advance(now)
        self.requests.append(request)
        self._add(first_seconds, request, is_done=False)
        self._add(first_seconds + rest_seconds, request, is_done=True)

    def next_at(self) -> float:
        """Return when the next milestone is reached if nothing else begins; infinite without requests."""
        if not self._milestones:
            return float("inf")
        return self._at + max(0.0, self._milestones[0].work - self._work) / self._speed

    def reach(self, now: float) -> tuple[R, bool]:
        """Return whose milestone is reached *now*, and whether it is done and its slot free."""
        self._advance(now)
        milestone = heapq.heappop(self._milestones)
        self._work = max(self._work, milestone.work)
        if milestone.is_done:
            self.requests.remove(milestone.request)
        return milestone.request, milestone.is_done

    @property
    def _speed(self) -> float:
        return 1.0 / (1.0 + self._slowdown * max(0, len(self.requests) - 1))

    def _advance(self, now: float) -> None:
        self._work += (now - self._at) * self._speed
        self._at = now

    def _add(self, work: float, request: R, *, is_done: bool) -> None:
        self._number += 1
        heapq.heappush(self._milestones, _Milestone(self._work + work, self._number, request, is_done))
