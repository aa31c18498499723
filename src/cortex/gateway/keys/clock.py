"""The time that limits are kept by."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock(
    wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a clock in seconds since the epoch that is set once, now, and then runs on evenly.

    A step of the system's clock neither renews a limit nor freezes one, and what it tells still means something to the
    next process.
    """
    offset = wall() - steady()
    return lambda: offset + steady()
