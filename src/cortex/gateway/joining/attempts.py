"""How often one may try to join in vain: a bound for each address, and one for all together. Pure: `now` is given."""

from __future__ import annotations

import math
from collections import deque

from cortex.core.errors import RateLimited

WINDOW_SECONDS = 60.0
MOST_OF_ONE, MOST_OF_ALL = 10, 200


class Attempts:
    """The failures of the last minute, by who failed."""

    def __init__(self) -> None:
        self._failures: deque[tuple[float, str]] = deque()

    def check(self, peer: str, now: float) -> None:
        """Raise RateLimited if *peer*, or all together, have failed too often within the last minute."""
        while self._failures and self._failures[0][0] + WINDOW_SECONDS <= now:
            self._failures.popleft()
        own = [at for at, other in self._failures if other == peer]
        if len(own) >= MOST_OF_ONE or len(self._failures) >= MOST_OF_ALL:
            oldest = own[0] if len(own) >= MOST_OF_ONE else self._failures[0][0]
            seconds = math.ceil(oldest + WINDOW_SECONDS - now)
            reason = f"too many attempts to join were in vain; try again in {seconds} s"
            raise RateLimited(reason, code="too_many_attempts", retry_after_seconds=seconds)

    def failed(self, peer: str, now: float) -> None:
        """Count a failure of *peer*."""
        self._failures.append((now, peer))
