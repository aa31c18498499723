"""Keep the last requests, and the figures of each minute, in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cortex.core.errors import ConfigError, ServiceError
from cortex.gateway.trace.history import Minute
from cortex.gateway.trace.kept import Trace

BUSY_SECONDS = 5.0
# The shape of what is kept: a file of another one is begun anew.
VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS trace (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    received REAL NOT NULL,
    key TEXT,
    model TEXT NOT NULL,
    failed INTEGER NOT NULL,
    slowness REAL NOT NULL,
    story BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS minute (minute INTEGER PRIMARY KEY, figures BLOB NOT NULL);
"""
_ADD = "INSERT INTO trace (id, received, key, model, failed, slowness, story) VALUES (?, ?, ?, ?, ?, ?, ?)"
_PRUNE = "DELETE FROM trace WHERE seq <= (SELECT MAX(seq) FROM trace) - ?"
_PUT = "INSERT OR REPLACE INTO minute (minute, figures) VALUES (?, ?)"

_trace = msgspec.json.Decoder(Trace)
_minute = msgspec.json.Decoder(Minute)


class TraceStoreError(ServiceError):
    """The store cannot be read or written now; the message says why."""

    status, code = 503, "traces_unavailable"


class Wanted(msgspec.Struct, frozen=True):
    """Which requests: failed ones, of a key, of a model, received at *since* or later; the slowest or the last."""

    slow: bool = False
    failed: bool = False
    key: str | None = None
    model: str | None = None
    since: float = 0.0
    limit: int = 20


class TraceStore:
    """A file with the last *keep* requests and the minutes of the last *history_seconds*. Its methods block."""

    def __init__(self, path: Path, *, keep: int, history_seconds: float) -> None:
        """Open the file at *path*, or make it. Raises ConfigError naming it."""
        self._keep, self._history_seconds = keep, history_seconds
        try:
            self._connection = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: traces cannot be kept there: {error}; move it away, or see [trace]") from None

    def add(self, traces: Sequence[Trace], minutes: Sequence[Minute], now: float) -> None:
        """Keep *traces* and *minutes*, and let go of what is too old by *now*, in seconds since 1970."""
        with _as_store_error(), self._connection as connection:
            connection.executemany(_ADD, [_row(trace) for trace in traces[-self._keep :]] if self._keep else [])
            connection.executemany(_PUT, [(minute.minute, msgspec.json.encode(minute)) for minute in minutes])
            connection.execute(_PRUNE, (self._keep,))
            connection.execute("DELETE FROM minute WHERE minute < ?", (now - self._history_seconds,))

    def find(self, id: str) -> Trace | None:
        """Return the last request called *id*, a name that clients may give."""
        with _as_store_error():
            query = "SELECT story FROM trace WHERE id = ? ORDER BY seq DESC LIMIT 1"
            row = self._connection.execute(query, (id,)).fetchone()
        return _trace.decode(row[0]) if row is not None else None

    def search(self, wanted: Wanted) -> list[Trace]:
        """Return the requests that are *wanted*: the last, or the slowest, first."""
        tests, values = ["received >= ?"], list[str | float]([wanted.since])
        for column, value in (("key", wanted.key), ("model", wanted.model)):
            if value is not None:
                tests.append(f"{column} = ?")
                values.append(value)
        tests += ["failed"] if wanted.failed else []
        order = "slowness DESC" if wanted.slow else "seq DESC"
        query = f"SELECT story FROM trace WHERE {' AND '.join(tests)} ORDER BY {order} LIMIT ?"
        with _as_store_error():
            return [_trace.decode(row[0]) for row in self._connection.execute(query, (*values, wanted.limit))]

    def minutes(self, since: float) -> list[Minute]:
        """Return the minutes that began at *since* or later, the oldest first."""
        query = "SELECT figures FROM minute WHERE minute >= ? ORDER BY minute"
        with _as_store_error():
            return [_minute.decode(row[0]) for row in self._connection.execute(query, (since,))]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def slowness(trace: Trace) -> float:
    """Return what *trace* is judged by: the seconds to its first token, or to its end if there was none."""
    return trace.seconds if trace.first_token_at is None else trace.first_token_at


def _row(trace: Trace) -> tuple[str, float, str | None, str, bool, float, bytes]:
    story, failed = msgspec.json.encode(trace), trace.outcome == "failed"
    return trace.id, trace.received, trace.key, trace.model, failed, slowness(trace), story


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
            connection.executescript("DROP TABLE IF EXISTS trace; DROP TABLE IF EXISTS minute;")
        connection.executescript(_TABLES)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _as_store_error() -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise TraceStoreError(str(error)) from None
