"""The ledger's store in a SQLite file.

The standard library's driver is enough: one table and three statements, one writer that is not on any request's path.
`ON CONFLICT … DO UPDATE` is PostgreSQL's too, so a store for several gateways differs in its driver and placeholders.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cortex.core.errors import ConfigError
from cortex.gateway.keys.ledger import StoreError, Total, Use

BUSY_SECONDS = 5.0
_TABLE = """
CREATE TABLE IF NOT EXISTS key_use (
    key TEXT NOT NULL,
    minute INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, minute)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO key_use (key, minute, requests, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key, minute) DO UPDATE SET
    requests = key_use.requests + excluded.requests,
    prompt_tokens = key_use.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = key_use.completion_tokens + excluded.completion_tokens
"""
_SINCE = """
SELECT key, minute, requests, prompt_tokens, completion_tokens FROM key_use WHERE minute >= ? ORDER BY minute
"""
_TOTALS = """
SELECT key, SUM(requests), SUM(prompt_tokens + completion_tokens), MAX(minute) FROM key_use WHERE minute >= ?
GROUP BY key
"""


class SqliteStore:
    """A `Store` in one file. Readers, such as `cortex key list`, do not hold up the writer, nor it them."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file at *path*, and make it unless it is only read. Raises ConfigError naming it."""
        try:
            self._connection = _open(path, read_only=read_only)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: cannot be used as the ledger: {error}") from None

    def add(self, uses: Sequence[Use]) -> None:
        """Add *uses* in one transaction."""
        with _as_store_error(), self._connection:
            self._connection.executemany(_ADD, uses)

    def since(self, start: float) -> list[Use]:
        """Return the uses since *start*."""
        with _as_store_error():
            return [Use(*row) for row in self._connection.execute(_SINCE, (start,))]

    def totals(self, start: float) -> Mapping[str, Total]:
        """Return the sums since *start*."""
        with _as_store_error():
            return {key: Total(*sums) for key, *sums in self._connection.execute(_TOTALS, (start,))}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _open(path: Path, *, read_only: bool) -> sqlite3.Connection:
    if not read_only:
        path.touch(mode=0o600)
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_TABLE)
        connection.execute("SELECT 1 FROM key_use LIMIT 1").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _as_store_error() -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(str(error)) from None
