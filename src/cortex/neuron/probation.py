"""Requests that an engine died of come in one at a time, and those that two died of not at all.

All that were at work when an engine died are suspects, and would come again at once. One at a time, the second death
has one cause; the others clear themselves by coming further than before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import anyio

from cortex.core.errors import EngineFailed
from cortex.core.logging import get_logger
from cortex.fleet.suspects import Fingerprint, Record, Suspects, fingerprint_of
from cortex.wire.engine_api import Chunk, Finished, Progress

log = get_logger(__name__)


class Probation:
    """Owns the suspects of a node."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.suspects = Suspects()
        self.clock = clock

    def hear(self, model: str, kind: str, body: bytes, deaths: int) -> None:
        """Take in that engines of other nodes died of this request."""
        self.suspects.hear(fingerprint_of(model, kind, body), deaths, self.clock())


class Trial:
    """One request at one replica, whose suspects take turns. Entering raises PoisonRequest."""

    def __init__(self, probation: Probation, turn: anyio.Semaphore, model: str, kind: str, body: bytes) -> None:
        self._probation, self._turn = probation, turn
        self._model, self._kind, self._body = model, kind, body
        self._record: Record | None = None
        self._has_turn = False
        self._chunks = 0

    async def __aenter__(self) -> Trial:
        if self._look() is not None:
            log.info("suspect_waits_for_its_turn", model=self._model)
            await self._turn.acquire()
            self._has_turn = True
            try:
                self._record = self._look()  # its like may have been at work meanwhile
            except BaseException:
                self._give_up_turn()
                raise
        return self

    def saw(self, event: Progress | Chunk | Finished) -> None:
        """Take note of one event of the answer."""
        self._chunks += isinstance(event, Chunk)
        if self._record is not None and (isinstance(event, Finished) or self._chunks > self._record.chunks + 1):
            self._probation.suspects.clear(self._fingerprint)
            self._record = None
            self._give_up_turn()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up_turn()
        if isinstance(error, EngineFailed) and error.at_work:
            log.warning(
                "engine_died_at_work", model=self._model, fingerprint=self._fingerprint.hex(), came=self._chunks
            )
            self._probation.suspects.note(self._fingerprint, self._probation.clock(), chunks=self._chunks)

    @property
    def _fingerprint(self) -> Fingerprint:
        return fingerprint_of(self._model, self._kind, self._body)

    def _look(self) -> Record | None:
        suspects = self._probation.suspects
        return suspects.get(self._fingerprint, self._probation.clock()) if suspects else None

    def _give_up_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turn.release()
