"""Count what a key uses in a sliding window, and what is set aside for requests under way. Pure: `now` is given.

Use is counted in grains of time. A grain leaves the window when its youngest possible moment has, so the sum is never
less than what was used in the last `seconds`: a limit holds in every window, wherever it is laid. `now` must not run
backwards; where it does, use is booked on the newest grain.
"""

from __future__ import annotations

from collections import deque

import msgspec

UNDER_WAY_RETRY_SECONDS = 2.0


class Quota(msgspec.Struct, frozen=True, gc=False):
    """Where a limit stands: how much there is, how much is left, and when all of it is back."""

    limit: int
    remaining: int
    reset_at: float


class Window:
    """A sum over the last `seconds`, in at most `seconds / grain_seconds + 1` pieces; `most` is at least that sum."""

    __slots__ = ("_grains", "_life", "grain_seconds", "most", "seconds")

    def __init__(self, seconds: float, grain_seconds: float) -> None:
        self.seconds, self.grain_seconds = seconds, grain_seconds
        self._life = seconds + grain_seconds
        self._grains: deque[list[float]] = deque()  # [start, amount]
        self.most = 0

    def used(self, now: float) -> int:
        """Return the sum at *now*."""
        grains = self._grains
        while grains and grains[0][0] + self._life <= now:
            self.most -= int(grains.popleft()[1])
        return self.most

    def add(self, amount: int, now: float) -> None:
        """Book *amount* on *now*."""
        self.most += amount
        grains = self._grains
        start = now - now % self.grain_seconds
        if grains and grains[-1][0] >= start:
            grains[-1][1] += amount
        else:
            self.used(now)
            grains.append([start, amount])

    def free_at(self, amount: int, now: float) -> float:
        """Return when *amount* of what is in the window will have left it; *now* if that is nothing."""
        self.used(now)
        for start, held in self._grains:
            if amount <= 0:
                break
            amount -= int(held)
            now = start + self._life
        return now

    def empty_at(self, now: float) -> float:
        """Return when nothing will be left in the window."""
        return self._grains[-1][0] + self._life if self.used(now) else now


class Allowance:
    """A limit on a window, and what of it is set aside: `reserve` before, `settle` after."""

    __slots__ = ("_reserved", "_window", "limit")

    def __init__(self, limit: int, window: Window) -> None:
        self.limit, self._window, self._reserved = limit, window, 0

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return self._window.seconds

    def share(self, amount: int) -> int:
        """Return what is set aside for *amount*: no more than there is in all, or it could never be had."""
        return min(amount, self.limit)

    def wait(self, amount: int, now: float) -> float:
        """Return the seconds until *amount* can be had, 0 if it can now.

        Where all would fit but for requests under way, the wait is short: they may end at any moment for less.
        """
        taken = self._reserved + amount
        if self._window.most + taken <= self.limit:
            return 0.0
        used = self._window.used(now)
        if used + taken <= self.limit:
            return 0.0
        excess = used + amount - self.limit
        return self._window.free_at(excess, now) - now if excess > 0 else UNDER_WAY_RETRY_SECONDS

    def reserve(self, amount: int) -> None:
        """Set *amount* aside."""
        self._reserved += amount

    def settle(self, reserved: int, used: int, now: float) -> None:
        """Give *reserved* back and book what was *used*."""
        self._reserved -= reserved
        self._window.add(used, now)

    def quota(self, now: float) -> Quota:
        """Return where the limit stands."""
        window, reserved, limit = self._window, self._reserved, self.limit
        left = limit - window.used(now) - reserved
        reset_at = now + window.seconds if reserved else window.empty_at(now)
        return Quota(limit, left if left > 0 else 0, reset_at)


def per_minute(limit: int) -> Allowance:
    """Return an allowance of *limit* in any minute."""
    return Allowance(limit, Window(60.0, 1.0))


def budget(limit: int, seconds: float) -> Allowance:
    """Return an allowance of *limit* in any *seconds*; its grains are whole minutes, as the ledger keeps them."""
    grain_minutes = max(1, round(seconds / 60 / 288))
    return Allowance(limit, Window(seconds, 60.0 * grain_minutes))
