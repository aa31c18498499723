"""Find stop strings in a text that comes in pieces; what may become one is held back. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first of *stops* in a text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped_by: str | None = None

    def feed(self, text: str) -> str:
        """Return what may be shown now, nothing from a stop string on."""
        if self.stopped_by is not None:
            return ""
        whole = self._held + text
        found = min(((at, stop) for stop in self._stops if (at := whole.find(stop)) >= 0), default=None)
        if found is not None:
            self.stopped_by, self._held = found[1], ""
            return whole[: found[0]]
        keep = held_length(whole, self._stops)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> str:
        """Return what was held back, when nothing more comes."""
        held, self._held = self._held, ""
        return held


def held_length(text: str, marks: Sequence[str]) -> int:
    """Return how long the longest end of *text* is that one of *marks* begins with."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    ends = (size for size in range(longest, 0, -1) if any(mark.startswith(text[-size:]) for mark in marks))
    return next(ends, 0)
