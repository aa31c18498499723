"""Which requests engines died of, on whichever nodes: one that killed two is refused before it takes down a third."""

from __future__ import annotations

import time
from collections.abc import Callable

from cortex.core.errors import EngineFailed
from cortex.fleet.suspects import Fingerprint, Suspects, fingerprint_of
from cortex.gateway.dialects import Asked
from cortex.wire.json import fields_of

# A request is the same however its answer is to come.
_DELIVERY = frozenset({"stream", "stream_options"})


class Poison:
    """Owns the suspects of the fleet; costs nothing while there are none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._suspects, self._clock = Suspects(), clock

    def deaths(self, model: str, asked: Asked) -> int:
        """Return how many engines died of this request. Raises PoisonRequest if it is not to be tried again."""
        record = self._suspects.get(_fingerprint(model, asked), self._clock()) if self._suspects else None
        return record.deaths if record is not None else 0

    def note(self, model: str, asked: Asked, code: str | None) -> None:
        """Take in what a node's attempt at this request failed of."""
        if code == EngineFailed.code:
            self._suspects.note(_fingerprint(model, asked), self._clock())

    def clear(self, model: str, asked: Asked) -> None:
        """The request was answered after all."""
        self._suspects.clear(_fingerprint(model, asked))


def _fingerprint(model: str, asked: Asked) -> Fingerprint:
    fields = fields_of(asked.body)
    told = b"".join(name.encode() + b"\0" + bytes(fields[name]) for name in sorted(fields.keys() - _DELIVERY))
    return fingerprint_of(model, asked.path, told)
