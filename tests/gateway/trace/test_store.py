"""The last requests are kept in a file, and found again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.trace.history import Minute
from cortex.gateway.trace.kept import Trace, kept
from cortex.gateway.trace.store import TraceStore, TraceStoreError, Wanted
from ended_requests import ended


def trace(id: str, **fields: object) -> Trace:
    return kept(ended(id=id, **fields), 0.0, ())


def store(path: Path, *traces: Trace, keep: int = 100) -> TraceStore:
    opened = TraceStore(path / "traces.db", keep=keep, history_seconds=3600)
    opened.add(traces, (), 0.0)
    return opened


def found(opened: TraceStore, **wanted: object) -> list[str]:
    return [trace.id for trace in opened.search(Wanted(**wanted))]  # type: ignore[arg-type]


def test_a_story_is_found_again_after_a_restart(tmp_path: Path) -> None:
    story = trace("one")
    store(tmp_path, story).close()

    assert store(tmp_path).find("one") == story
    assert store(tmp_path).find("two") is None


def test_of_two_with_one_name_the_last_is_told(tmp_path: Path) -> None:
    last = store(tmp_path, trace("one", status=200), trace("one", status=503)).find("one")

    assert last is not None
    assert last.status == 503


def test_the_oldest_go_first(tmp_path: Path) -> None:
    opened = store(tmp_path, trace("a"), trace("b"), keep=3)
    opened.add([trace("c"), trace("d")], (), 0.0)

    assert found(opened) == ["d", "c", "b"]


def test_requests_are_searched_for(tmp_path: Path) -> None:
    opened = store(
        tmp_path,
        trace("slow", sent_at=150.0, key="bob"),
        trace("other", model="x", label="x"),
        trace("late", arrived=5000.0, sent_at=5000.1, ended=5001.0),
        trace("bad", code="no_memory", trailer=None),
    )

    assert found(opened) == ["bad", "late", "other", "slow"]
    assert found(opened, limit=2) == ["bad", "late"]
    assert found(opened, slow=True)[:2] == ["slow", "bad"]
    assert found(opened, failed=True) == ["bad"]
    assert found(opened, key="bob") == ["slow"]
    assert found(opened, model="x") == ["other"]
    assert found(opened, since=4000.0) == ["late"]
    assert found(opened, key="bob'; DROP TABLE trace; --") == []


def test_minutes_are_replaced_and_let_go_of_when_they_are_old(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.add((), [Minute(60, requests=1), Minute(6000, requests=1)], 6000.0)
    opened.add((), [Minute(6000, requests=2)], 6000.0)

    assert [(minute.minute, minute.requests) for minute in opened.minutes(0)] == [(6000, 2)]


def test_a_file_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    store(tmp_path, trace("one")).close()
    with sqlite3.connect(tmp_path / "traces.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    assert found(store(tmp_path)) == []


def test_a_file_that_is_none_stops_the_start_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "traces.db").write_bytes(b"not a database, at all, whatever it is called" * 100)

    with pytest.raises(ConfigError, match=r"traces\.db"):
        store(tmp_path)


def test_a_store_that_fails_says_so_in_one_kind_of_error(tmp_path: Path) -> None:
    opened = store(tmp_path)
    opened.close()

    with pytest.raises(TraceStoreError):
        opened.add([trace("one")], (), 0.0)
