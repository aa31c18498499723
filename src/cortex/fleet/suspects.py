"""Remember the requests that engines died of, so that one which kills engines is not tried a third time. Pure.

One death proves nothing: engines die of other things, and of the requests that one was at work on, one is to blame at
most. Two deaths at the same request do, for long enough to look into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from cortex.core.errors import PoisonRequest

MAX_DEATHS = 2
KEEP_SECONDS = 900.0
MAX_KEPT = 1024
DEATHS_HEADER = b"x-cortex-deaths"
"""How many engines died of a request elsewhere, as a gateway tells a node."""

Fingerprint = bytes


@dataclass(frozen=True, slots=True)
class Record:
    """How many engines died at a request, and how many chunks of its answer had come the last time."""

    deaths: int
    chunks: int
    until: float


class Suspects:
    """The table, for `KEEP_SECONDS` after each death; false while it is empty. Times are the caller's, in seconds."""

    def __init__(self) -> None:
        self._records: dict[Fingerprint, Record] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def get(self, fingerprint: Fingerprint, now: float) -> Record | None:
        """Return what is known of a request. Raises PoisonRequest if it is not to be tried again."""
        record = self._records.get(fingerprint)
        if record is None or record.until < now:
            self._records.pop(fingerprint, None)
            return None
        if record.deaths >= MAX_DEATHS:
            raise PoisonRequest(record.deaths)
        return record

    def note(self, fingerprint: Fingerprint, now: float, *, chunks: int = 0) -> None:
        """An engine died while it was at work on this request, after so many *chunks* of the answer."""
        known = self._records.pop(fingerprint, None)
        deaths = known.deaths if known is not None and known.until >= now else 0
        self._keep(fingerprint, Record(deaths + 1, chunks, now + KEEP_SECONDS))

    def hear(self, fingerprint: Fingerprint, deaths: int, now: float) -> None:
        """Somebody else counted so many *deaths*, of which some may be those that are known here."""
        known = self._records.pop(fingerprint, None)
        if known is None or known.until < now or known.deaths < deaths:
            known = Record(deaths, 0, now + KEEP_SECONDS)
        self._keep(fingerprint, known)

    def clear(self, fingerprint: Fingerprint) -> None:
        """The request was answered, or has come further than where an engine died: it was not the reason."""
        self._records.pop(fingerprint, None)

    def _keep(self, fingerprint: Fingerprint, record: Record) -> None:
        self._records[fingerprint] = record
        if len(self._records) > MAX_KEPT:
            del self._records[next(iter(self._records))]


def fingerprint_of(model: str, kind: str, body: bytes) -> Fingerprint:
    """Return what tells one request from others: the same again has the same."""
    return blake2b(f"{model}\0{kind}\0".encode() + body, digest_size=16).digest()
