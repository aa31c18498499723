"""Where the time of one load went: the stages it told of, in order, each with its seconds."""

from __future__ import annotations

from cortex.wire.node_api import LoadProgress, LoadStage

FIRST_STAGE = "preparing"


class Stages:
    """Owns how far a load is, and how long each stage of it took. Told the time in seconds by whoever calls."""

    def __init__(self) -> None:
        self.progress: LoadProgress | None = None
        self._entered: list[tuple[str, float]] = []
        self._ended: float | None = None

    def begin(self, now: float) -> None:
        """Begin anew: a load starts."""
        self._entered, self._ended = [(FIRST_STAGE, now)], None

    def tell(self, progress: LoadProgress | None, now: float) -> None:
        """Take note of how far the load is, or with None that it is over."""
        self.progress = progress
        if progress is None:
            self._ended = now
        elif not self._entered or self._entered[-1][0] != progress.stage:
            self._entered.append((progress.stage, now))

    def told(self, now: float) -> list[LoadStage]:
        """Return the stages until now, or until the load was over."""
        ends = [at for _, at in self._entered[1:]] + [now if self._ended is None else self._ended]
        return [
            LoadStage(stage, round(end - began, 3)) for (stage, began), end in zip(self._entered, ends, strict=False)
        ]
