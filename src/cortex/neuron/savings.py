"""What cancelling saves: the tokens that an answer would still have had, going by the model's whole answers."""

from __future__ import annotations

from collections import deque

KEPT_ANSWERS = 256


class Savings:
    """Owns the lengths of the last whole answers of each model, in tokens."""

    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}

    def learn(self, model: str, tokens: int) -> None:
        """Take in the length of an answer that came to its own end."""
        self._lengths.setdefault(model, deque(maxlen=KEPT_ANSWERS)).append(tokens)

    def saved(self, model: str, came: int, limit: int | None) -> int:
        """Return how many more than *came* there would have been, *limit* at most.

        That is the mean of the answers that were longer; if there was none yet, what the request allowed.
        """
        longer = [length for length in self._lengths.get(model, ()) if length > came]
        expected = sum(longer) / len(longer) if longer else float(limit or 0)
        return max(0, round(expected if limit is None else min(expected, limit)) - came)
