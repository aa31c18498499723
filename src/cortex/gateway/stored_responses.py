"""Finished responses that a client may ask for again or go on from: in SQLite, of bounded age, number and size."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from cortex.core.errors import ConfigError
from cortex.wire.responses.stored import StoredResponse, decode_stored, encode_stored

DEFAULT_TTL_SECONDS = 7 * 86400.0
MAX_RESPONSES = 10_000
MAX_BYTES = 1_000_000_000
# Every so many additions the old ones go: cheaper than at each, and the bound may be exceeded by no more.
SWEEP_EVERY = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kept_at REAL NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (kept_at);
"""


class StoredResponses:
    """Owns the table. Calls are short and block; *now* is in Unix seconds. A response is its owner's alone.

    *max_bytes* bounds the responses together, as they are stored; the file takes a little more.
    """

    def __init__(
        self,
        path: Path,
        *,
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        limit: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Open the file at *path*, or make it; with a *ttl_seconds* of 0 it is emptied. Raises ConfigError."""
        self._ttl_seconds, self._limit, self._max_bytes, self._added = ttl_seconds, limit, max_bytes, 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
            (self._bytes,) = self._database.execute("SELECT coalesce(sum(length(body)), 0) FROM responses").fetchone()
            if not ttl_seconds:
                self._delete("true")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{path}: {error}; move it away, or choose another directory with gateway.state"
            ) from None

    def keep(self, response: StoredResponse, owner: str, now: float) -> None:
        """Keep *response* for its time, if any; one that is larger than all may be is not worth the others."""
        body = encode_stored(response)
        if not self._ttl_seconds or len(body) > self._max_bytes:
            return
        self._delete("id = ?", response.id)
        self._make_room(len(body))
        self._database.execute("INSERT INTO responses VALUES (?, ?, ?, ?)", (response.id, owner, now, body))
        self._bytes += len(body)
        self._added += 1
        if self._added % SWEEP_EVERY == 1:
            self._sweep(now)

    def find(self, response_id: str, owner: str, now: float) -> StoredResponse | None:
        """Return the response called *response_id*, unless it is gone or another key's."""
        query = "SELECT body FROM responses WHERE id = ? AND owner = ? AND kept_at > ?"
        row = self._database.execute(query, (response_id, owner, now - self._ttl_seconds)).fetchone()
        try:
            return decode_stored(row[0]) if row is not None else None
        except msgspec.MsgspecError:
            return None  # of another version: as good as gone

    def delete(self, response_id: str, owner: str) -> bool:
        """Forget a response; return whether it was there."""
        return self._delete("id = ? AND owner = ?", response_id, owner) > 0

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _sweep(self, now: float) -> None:
        self._delete("kept_at <= ?", now - self._ttl_seconds)
        oldest = "SELECT id FROM responses ORDER BY kept_at DESC, rowid DESC LIMIT -1 OFFSET ?"
        self._delete(f"id IN ({oldest})", self._limit)

    def _make_room(self, size: int) -> None:
        """Let the oldest go until *size* bytes more are not too many: a look at as many rows as go."""
        excess = self._bytes + size - self._max_bytes
        if excess <= 0:
            return
        oldest: list[str] = []
        for response_id, length in self._database.execute(
            "SELECT id, length(body) FROM responses ORDER BY kept_at, rowid"
        ):
            oldest.append(response_id)
            excess -= length
            if excess <= 0:
                break
        self._delete("id IN (SELECT value FROM json_each(?))", msgspec.json.encode(oldest).decode())

    def _delete(self, where: str, *parameters: object) -> int:
        """Delete the rows *where* says, and return how many these were."""
        query = f"DELETE FROM responses WHERE {where} RETURNING length(body)"
        gone = self._database.execute(query, parameters).fetchall()
        self._bytes -= sum(length for (length,) in gone)
        return len(gone)
