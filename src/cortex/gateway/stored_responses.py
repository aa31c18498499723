"""Finished responses that a client may ask for again or go on from: in SQLite, for a time, up to a number."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from cortex.core.errors import ConfigError
from cortex.wire.responses.stored import StoredResponse, decode_stored, encode_stored

DEFAULT_TTL_SECONDS = 7 * 86400.0
MAX_RESPONSES = 10_000
# Every so many additions the old ones go: cheaper than at each, and the bound may be exceeded by no more.
SWEEP_EVERY = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, kept_at REAL NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (kept_at);
"""


class StoredResponses:
    """Owns the table. Calls are short and block; *now* is in Unix seconds. A response is its owner's alone."""

    def __init__(self, path: Path, *, ttl_seconds: float = DEFAULT_TTL_SECONDS, limit: int = MAX_RESPONSES) -> None:
        """Open the file at *path*, or make it. Raises ConfigError."""
        self._ttl_seconds, self._limit, self._added = ttl_seconds, limit, 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{path}: {error}; move it away, or choose another directory with gateway.state"
            ) from None

    def keep(self, response: StoredResponse, owner: str, now: float) -> None:
        """Keep *response* for its time."""
        row = (response.id, owner, now, encode_stored(response))
        self._database.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?)", row)
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
        query = "DELETE FROM responses WHERE id = ? AND owner = ?"
        return self._database.execute(query, (response_id, owner)).rowcount > 0

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _sweep(self, now: float) -> None:
        self._database.execute("DELETE FROM responses WHERE kept_at <= ?", (now - self._ttl_seconds,))
        oldest = "SELECT id FROM responses ORDER BY kept_at DESC, rowid DESC LIMIT -1 OFFSET ?"
        self._database.execute(f"DELETE FROM responses WHERE id IN ({oldest})", (self._limit,))
