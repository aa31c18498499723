from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.gateway.keys import ledger as module
from cortex.gateway.keys.ledger import Ledger, StoreError, Total, Use

MINUTE = 1_800_000_000


@dataclass
class MemoryStore:
    """A store that remembers each batch, and fails when told to."""

    batches: list[list[Use]] = field(default_factory=list)
    broken: bool = False
    closed: bool = False

    @property
    def uses(self) -> list[Use]:
        return [use for batch in self.batches for use in batch]

    def add(self, uses: Sequence[Use]) -> None:
        if self.broken:
            raise StoreError("database or disk is full")
        self.batches.append(list(uses))

    def since(self, start: float) -> list[Use]:
        return [use for use in self.uses if use.minute >= start]

    def totals(self, start: float) -> Mapping[str, Total]:
        raise AssertionError("the gateway asks for no totals")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_what_a_key_uses_in_a_minute_is_one_line(store: MemoryStore) -> None:
    ledger = Ledger(store)
    ledger.record("a", 10, 5, MINUTE + 1.5)
    ledger.record("a", 1, 2, MINUTE + 59.9)
    ledger.record("a", 3, 0, MINUTE + 60)
    ledger.record("b", 7, 7, MINUTE)

    anyio.run(ledger.flush)

    assert store.batches == [
        [Use("a", MINUTE, 2, 11, 7), Use("a", MINUTE + 60, 1, 3, 0), Use("b", MINUTE, 1, 7, 7)],
    ]


def test_nothing_used_is_nothing_written(store: MemoryStore) -> None:
    anyio.run(Ledger(store).flush)

    assert store.batches == []


def test_what_cannot_be_written_is_kept_until_it_can(store: MemoryStore) -> None:
    ledger = Ledger(store)
    ledger.record("a", 1, 1, MINUTE)
    store.broken = True
    anyio.run(ledger.flush)
    ledger.record("a", 2, 2, MINUTE)
    store.broken = False
    anyio.run(ledger.flush)

    assert store.uses == [Use("a", MINUTE, 2, 3, 3)]


def test_history_has_what_is_written_and_what_is_not_yet(store: MemoryStore) -> None:
    ledger = Ledger(store)
    ledger.record("a", 1, 0, MINUTE + 60)
    anyio.run(ledger.flush)
    ledger.record("a", 2, 0, MINUTE)

    history = anyio.run(ledger.history, MINUTE)

    assert history == [Use("a", MINUTE, 1, 2, 0), Use("a", MINUTE + 60, 1, 1, 0)]


def test_the_task_writes_by_itself_and_once_more_when_it_ends(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.001)
    written = anyio.Event()

    async def live() -> None:
        ledger = Ledger(store)
        add = store.add

        def add_and_tell(uses: list[Use]) -> None:
            add(uses)
            anyio.from_thread.run_sync(written.set)

        monkeypatch.setattr(store, "add", add_and_tell)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.run)
            ledger.record("a", 1, 1, MINUTE)
            with anyio.fail_after(5):
                await written.wait()
            ledger.record("a", 2, 2, MINUTE)
            tasks.cancel_scope.cancel()

    anyio.run(live)

    assert store.uses == [Use("a", MINUTE, 1, 1, 1), Use("a", MINUTE, 1, 2, 2)]
    assert store.closed


def test_what_can_never_be_written_is_told_when_it_ends(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    recorder = SimpleNamespace(
        warning=lambda event, **_: told.append(event), error=lambda event, **_: told.append(event)
    )
    monkeypatch.setattr(module, "log", recorder)
    store.broken = True

    async def live() -> None:
        ledger = Ledger(store)
        ledger.record("a", 1, 1, MINUTE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.run)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    anyio.run(live)

    assert told == ["ledger_not_written", "ledger_lost"]
    assert store.closed


@pytest.mark.parametrize("turns", range(8))
def test_a_flush_that_is_cancelled_loses_nothing(store: MemoryStore, turns: int) -> None:
    """At whichever turn of the loop the cancellation comes."""

    async def live() -> None:
        ledger = Ledger(store)
        ledger.record("a", 1, 1, MINUTE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.flush)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await ledger.flush()

    anyio.run(live)

    assert store.uses == [Use("a", MINUTE, 1, 1, 1)]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 9), st.sampled_from(["", "write", "fail"])),
        max_size=20,
    )
)
def test_no_use_is_lost_or_written_twice(steps: list[tuple[str, int, int, str]]) -> None:
    """Records, flushes that fail and flushes that do not, in any order."""
    store = MemoryStore()

    async def live() -> None:
        ledger = Ledger(store)
        for key, minute, tokens, flush in steps:
            ledger.record(key, tokens, 2 * tokens, MINUTE + 60 * minute)
            store.broken = flush == "fail"
            if flush:
                await ledger.flush()
        store.broken = False
        before = await ledger.history(0)
        await ledger.flush()
        assert sums(before) == sums(store.uses)

    anyio.run(live)

    assert sums(store.uses) == (len(steps), sum(3 * tokens for _, _, tokens, _ in steps))
    assert all(len({(use.key, use.minute) for use in batch}) == len(batch) for batch in store.batches)


def sums(uses: list[Use]) -> tuple[int, int]:
    return sum(use.requests for use in uses), sum(use.tokens for use in uses)
