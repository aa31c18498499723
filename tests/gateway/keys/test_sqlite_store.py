from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.keys.ledger import StoreError, Total, Use
from cortex.gateway.keys.sqlite_store import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def sqlite(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    yield store
    store.close()


def test_what_is_added_to_a_minute_adds_up(sqlite: SqliteStore) -> None:
    sqlite.add([Use("a", 60, 1, 10, 5), Use("b", 60, 1, 1, 1)])
    sqlite.add([Use("a", 60, 2, 20, 7), Use("a", 0, 1, 1, 0)])

    assert sqlite.since(0) == [Use("a", 0, 1, 1, 0), Use("a", 60, 3, 30, 12), Use("b", 60, 1, 1, 1)]
    assert sqlite.since(60) == [Use("a", 60, 3, 30, 12), Use("b", 60, 1, 1, 1)]
    assert sqlite.since(60.5) == []


def test_totals_are_by_key_with_the_last_minute(sqlite: SqliteStore) -> None:
    sqlite.add([Use("a", 60, 1, 10, 5), Use("a", 120, 2, 20, 7), Use("b", 60, 1, 1, 1)])

    assert sqlite.totals(0) == {"a": Total(3, 42, 120), "b": Total(1, 2, 60)}
    assert sqlite.totals(100) == {"a": Total(2, 27, 120)}


def test_use_outlives_the_process(path: Path) -> None:
    first = SqliteStore(path)
    first.add([Use("a", 60, 1, 2, 3)])
    first.close()
    second = SqliteStore(path)

    assert second.since(0) == [Use("a", 60, 1, 2, 3)]
    second.close()


def test_a_batch_is_written_whole_or_not_at_all(sqlite: SqliteStore) -> None:
    with pytest.raises(StoreError):
        sqlite.add([Use("a", 60, 1, 2, 3), Use(None, 60, 1, 2, 3)])  # type: ignore[arg-type]

    assert sqlite.since(0) == []


def test_the_file_is_read_while_it_is_written(sqlite: SqliteStore, path: Path) -> None:
    sqlite.add([Use("a", 60, 1, 2, 3)])
    reader = SqliteStore(path, read_only=True)
    writer = sqlite3.connect(path)
    writer.execute("BEGIN IMMEDIATE")

    assert reader.totals(0) == {"a": Total(1, 5, 60)}
    writer.close()
    reader.close()


def test_a_reader_changes_nothing(sqlite: SqliteStore, path: Path) -> None:
    reader = SqliteStore(path, read_only=True)

    with pytest.raises(StoreError, match="readonly"):
        reader.add([Use("a", 60, 1, 2, 3)])
    reader.close()


def test_the_file_is_for_its_owner_alone(sqlite: SqliteStore, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_with_marks_in_its_name_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "what? 100% #1.db"
    SqliteStore(path).close()

    assert path.stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, read_only: bool) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be looked at" * 100)

    for path in (text, tmp_path / "gone" / "ledger.db"):
        with pytest.raises(ConfigError, match="cannot be used as the ledger"):
            SqliteStore(path, read_only=read_only)


def test_a_reader_makes_no_file(path: Path) -> None:
    with pytest.raises(ConfigError):
        SqliteStore(path, read_only=True)

    assert not path.exists()
