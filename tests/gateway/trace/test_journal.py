"""Records are handed on in batches, in order, and the data path waits for nobody."""

from __future__ import annotations

import anyio
import pytest

from cortex.gateway.trace.journal import BATCH, Journal
from cortex.gateway.trace.record import Record
from ended_requests import ended


def follower(journal: Journal) -> list[list[str]]:
    heard: list[list[str]] = []
    journal.follow(lambda batch: heard.append([record.id for record in batch]))
    return heard


def test_nothing_happens_until_it_is_drained_and_then_everybody_hears_all_in_order() -> None:
    journal = Journal()
    one, other = follower(journal), follower(journal)
    for number in range(BATCH + 1):
        journal.add(ended(id=str(number)))
    before = list(one)
    journal.drain()

    assert before == []
    assert [len(batch) for batch in one] == [BATCH, 1]
    assert [name for batch in one for name in batch] == [str(n) for n in range(BATCH + 1)]
    assert one == other


def test_what_comes_faster_than_it_is_handed_on_is_dropped_and_counted() -> None:
    journal = Journal(capacity=2)
    heard = follower(journal)
    for name in ("old", "b", "c"):
        journal.add(ended(id=name))
    dropped = journal.dropped
    journal.drain()

    assert heard == [["b", "c"]]
    assert dropped == journal.dropped == 1


@pytest.mark.anyio
async def test_what_is_left_at_the_end_is_handed_on() -> None:
    journal, heard = Journal(), list[Record]()
    journal.follow(heard.extend)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        await anyio.lowlevel.checkpoint()
        journal.add(ended())
        tasks.cancel_scope.cancel()

    assert [record.id for record in heard] == ["req-1"]


@pytest.mark.anyio
async def test_what_comes_is_handed_on_soon_however_long_nothing_came() -> None:
    journal, heard = Journal(), list[Record]()
    journal.follow(heard.extend)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        for count in (1, 2):
            await anyio.wait_all_tasks_blocked()
            journal.add(ended())
            with anyio.fail_after(5):
                while len(heard) < count:
                    await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
