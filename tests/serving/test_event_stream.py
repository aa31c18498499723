"""When a stream speaks: on a clock that goes on only when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from cortex.core.errors import EngineFailed
from cortex.serving import event_stream as subject
from cortex.serving.event_stream import EventStream
from cortex.serving.exchange import Exchange
from cortex.serving.head import Head
from cortex.wire.errors import openai_event
from cortex.wire.sse import KEEP_ALIVE

EVENT = b"data: 1\n\n"


@dataclass(eq=False)
class Timer:
    at: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Clock:
    """As much of an event loop as a stream needs; it starts late, as a machine's own clock does."""

    now: float = 1000.0
    timers: list[Timer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.now + seconds, call)

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(at, call))
        return self.timers[-1]

    def until(self, at: float) -> None:
        """Go on to *at*, running every timer on the way at its time."""
        while due := [timer for timer in self.timers if not timer.cancelled and timer.at <= at]:
            timer = min(due, key=lambda each: each.at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.call()
        self.now = at
        self.timers = [timer for timer in self.timers if not timer.cancelled]


@dataclass
class Wire:
    """Keeps what is sent, and when."""

    clock: Clock
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    waited: int = 0

    def send(self, data: bytes) -> None:
        self.sent.append((round(self.clock.now - 1000.0, 3), data))

    async def writable(self) -> None:
        self.waited += 1

    def when_writable(self, call: Callable[[], None]) -> bool:
        return False

    def complete(self, *, reusable: bool) -> None:
        pass

    def times(self, piece: bytes) -> list[float]:
        return [at for at, data in self.sent if piece in data]


class Stage:
    """A stream with a patience of half a second on a clock of its own, counted from zero."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.clock = Clock()
        self.wire = Wire(self.clock)
        self.exchange = Exchange(self.wire, Head("POST", "/"), b"", "r1")
        monkeypatch.setattr(subject, "asyncio", SimpleNamespace(get_running_loop=lambda: self.clock))
        self.stream = EventStream(self.exchange, patience_seconds=0.5, **settings)

    def at(self, seconds: float) -> EventStream:
        self.clock.until(1000.0 + seconds)
        return self.stream


def test_the_head_waits_for_the_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, headers=[(b"x-extra", b"1")])
    with stage.stream:
        assert not stage.at(0.49).opened
        assert stage.wire.sent == []
        stage.at(0.49).write(EVENT)

    (_, head), (_, event) = stage.wire.sent
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream; charset=utf-8\r\n" in head
    assert b"x-extra: 1\r\n" in head
    assert EVENT in event
    assert stage.stream.opened


RHYTHMS: dict[str, tuple[list[float], float, list[float]]] = {
    "silence": ([], 4.0, [0.5, 1.5, 2.5, 3.5]),
    "one event before the patience is over": ([0.2], 3.0, [1.2, 2.2]),
    "one event after it": ([0.7], 3.0, [0.5, 1.7, 2.7]),
    "a steady flow": ([0.1 * n for n in range(1, 40)], 4.0, []),
    "a flow that is a little too slow": ([0.4, 1.5, 2.6], 3.0, [1.4, 2.5]),
    "a flow that stops": ([0.1, 0.9], 4.0, [1.9, 2.9, 3.9]),
}


@pytest.mark.parametrize(("events", "end", "comments"), RHYTHMS.values(), ids=RHYTHMS.keys())
def test_a_comment_fills_every_second_in_which_nothing_else_was_sent(
    monkeypatch: pytest.MonkeyPatch, events: list[float], end: float, comments: list[float]
) -> None:
    stage = Stage(monkeypatch)
    with stage.stream:
        for at in events:
            stage.at(at).write(EVENT)
        stage.at(end)

    assert stage.wire.times(KEEP_ALIVE) == comments
    assert len(stage.wire.times(EVENT)) == len(events)


@pytest.mark.parametrize("how", ["finished", "left"])
def test_nothing_is_said_after_the_end(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    stage = Stage(monkeypatch)
    with stage.stream:
        stage.at(0.2).write(EVENT)
        if how == "finished":
            stage.stream.finish()
            stage.at(3.0)
    stage.at(9.0)

    assert stage.wire.times(KEEP_ALIVE) == []
    assert stage.clock.timers == []
    assert stage.exchange.finished is (how == "finished")


def test_a_handler_that_fails_leaves_no_timer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    with pytest.raises(RuntimeError), stage.stream:
        raise RuntimeError
    stage.at(9.0)

    assert stage.wire.sent == []


def test_a_comment_may_tell_how_far_a_load_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([b": 10%\n\n", b": 90%\n\n"])
    stage = Stage(monkeypatch, comment=lambda: next(told))
    with stage.stream:
        stage.at(2.0)

    assert (stage.wire.times(b": 10%\n\n"), stage.wire.times(b": 90%\n\n")) == ([0.5], [1.5])


def test_an_end_without_events_is_still_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    with stage.stream:
        stage.stream.finish()

    assert [data[:15] for _, data in stage.wire.sent] == [b"HTTP/1.1 200 OK", b"0\r\n\r\n"]


def test_once_it_is_open_an_error_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    error = EngineFailed("gone")
    stage, own = Stage(monkeypatch), Stage(monkeypatch, last_words=lambda _: b"sorry")
    assert stage.exchange.last_words is None
    for each in (stage, own):
        each.stream.open()

    assert stage.exchange.last_words is not None
    assert own.exchange.last_words is not None
    assert stage.exchange.last_words(error) == openai_event(error)
    assert own.exchange.last_words(error) == b"sorry"


def test_a_slow_reader_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    asyncio.run(stage.stream.writable())

    assert stage.wire.waited == 1
