"""What happened, for who asks later and for who listens now; a slow listener loses entries and holds nobody up."""

from __future__ import annotations

import asyncio

import pytest

from cortex.gateway import feed as feed_module
from cortex.gateway.feed import Feed, Listener
from fake_fleet import soon

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def loop(anyio_backend: object) -> None:
    """Every feed belongs to a loop."""


def numbers(feed: Feed, **which: object) -> list[int]:
    return [entry["seq"] for entry in feed.entries(**which)]  # type: ignore[arg-type]


async def heard(listener: Listener, count: int) -> list[str]:
    return [entry["kind"] for _ in range(count) if (entry := await soon(listener.next(1.0))) is not None]


async def test_an_entry_has_a_number_a_time_and_what_belongs_to_its_kind() -> None:
    feed = Feed()
    feed.publish(12.5, "evicted", model="m", node="a")

    assert feed.entries() == [{"seq": 1, "time": 12.5, "kind": "evicted", "model": "m", "node": "a"}]


async def test_only_the_last_entries_are_kept() -> None:
    feed = Feed(capacity=3)
    for _ in range(5):
        feed.publish(0.0, "x")

    assert numbers(feed) == [3, 4, 5]


async def test_entries_are_found_by_number_and_model_the_last_of_them_oldest_first() -> None:
    feed = Feed()
    for model in "mnmnm":
        feed.publish(0.0, "x", model=model)

    assert numbers(feed, after=2) == [3, 4, 5]
    assert numbers(feed, model="m") == [1, 3, 5]
    assert numbers(feed, model="m", limit=2) == [3, 5]
    assert numbers(feed, limit=0) == []


async def test_a_listener_hears_what_comes_and_before_it_what_it_asked_for() -> None:
    feed = Feed()
    for kind in ("one", "two"):
        feed.publish(0.0, kind)
    with feed.listener() as fresh, feed.listener(after=1) as late:
        feed.publish(0.0, "three")

        assert await heard(fresh, 1) == ["three"]
        assert await heard(late, 2) == ["two", "three"]


async def test_a_listener_wakes_for_what_comes_while_it_waits() -> None:
    feed = Feed()
    with feed.listener() as listener:
        waiting = asyncio.ensure_future(listener.next(60.0))
        await asyncio.sleep(0)
        feed.publish(0.0, "x")
        entry = await soon(waiting)

    assert entry is not None
    assert entry["kind"] == "x"


async def test_silence_ends_after_a_while() -> None:
    with Feed().listener() as listener:
        assert await listener.next(0.0) is None


async def test_what_is_passed_on_is_heard_and_not_kept() -> None:
    feed = Feed()
    with feed.listener() as listener:
        assert feed.listened
        feed.pass_on(0.0, "request")

        assert await heard(listener, 1) == ["request"]
    assert feed.entries() == []
    assert not feed.listened


async def test_a_slow_listener_is_told_of_the_gap_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LISTENER_CAPACITY", 3)
    feed = Feed()
    with feed.listener() as listener:
        for n in range(5):
            feed.publish(0.0, f"n{n}", model="m")
        gap = await listener.next(1.0)

        assert gap == {"seq": 2, "time": 0.0, "kind": "missed", "count": 2}
        assert await heard(listener, 3) == ["n2", "n3", "n4"]


async def test_a_listener_that_left_is_told_nothing_more() -> None:
    feed = Feed()
    with feed.listener() as listener:
        pass
    feed.publish(0.0, "x")

    assert await listener.next(0.0) is None
