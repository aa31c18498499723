"""Stories are written behind, and none is lost when the file cannot be written for a while."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.gateway.trace.history import Minute
from cortex.gateway.trace.journal import Journal
from cortex.gateway.trace.keeper import Keeper
from cortex.gateway.trace.kept import Trace
from cortex.gateway.trace.store import TraceStore, TraceStoreError, Wanted
from ended_requests import ended

pytestmark = pytest.mark.anyio


class FullDisk(TraceStore):
    """A store that cannot be written while it is `full`."""

    full = False

    def add(self, traces: Sequence[Trace], minutes: Sequence[Minute], now: float) -> None:
        if self.full:
            raise TraceStoreError("the disk is full")
        super().add(traces, minutes, now)


def keeper(path: Path, keep: int = 100) -> tuple[Journal, FullDisk, Keeper]:
    journal, store = Journal(), FullDisk(path / "traces.db", keep=keep, history_seconds=1e9)
    return journal, store, Keeper(journal, store, keep)


async def test_a_request_that_has_just_ended_is_found(tmp_path: Path) -> None:
    journal, _, kept = keeper(tmp_path)
    journal.add(ended())
    found = await kept.find("req-1")

    assert found is not None
    assert found.model == "m"


async def test_what_could_not_be_written_is_written_later_and_said_once(tmp_path: Path) -> None:
    journal, store, kept = keeper(tmp_path, keep=2)
    store.full = True
    with capture_logs() as logs:
        for name in ("old", "a", "b"):
            journal.add(ended(id=name))
            await kept.flush()
    store.full = False

    assert [trace.id for trace in await kept.search(Wanted())] == ["b", "a"]
    assert sum(minute.requests for minute in await kept.minutes(0)) == 3
    assert [line["event"] for line in logs] == ["traces_not_written"]


async def test_the_last_are_written_when_it_stops(tmp_path: Path) -> None:
    journal, _, kept = keeper(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.run)
        await anyio.lowlevel.checkpoint()
        journal.add(ended())
        tasks.cancel_scope.cancel()
    _, _, again = keeper(tmp_path)

    assert [trace.id for trace in await again.search(Wanted())] == ["req-1"]


async def test_with_nothing_to_be_kept_the_minutes_still_count(tmp_path: Path) -> None:
    journal, _, kept = keeper(tmp_path, keep=0)
    journal.add(ended())

    assert await kept.search(Wanted()) == []
    assert sum(minute.requests for minute in await kept.minutes(0)) == 1
