"""The thread that computes, with a batch that only notes what it is told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cortex.engines.transformers.batch import Prefill  # noqa: E402
from cortex.engines.transformers.messages import Admit  # noqa: E402
from cortex.engines.transformers.runner import Ended, Heard, Runner, Running, Spoilt  # noqa: E402
from cortex.engines.transformers.sampling import Chosen, Sampler, Sampling  # noqa: E402

pytestmark = pytest.mark.tp
STOP = 9


@dataclass
class Batch:
    """Stands in for a member: each live sequence has the likeliest token *next*; a step may be told to fail."""

    runner: Runner
    live: list[str] = field(default_factory=list)
    admitted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    next: int = 1
    error: Exception | None = None
    resets: int = 0

    def step(self, admitted: Sequence[Admit], cancelled: Sequence[str]) -> list[Prefill]:
        self.admitted += [each.id for each in admitted]
        self.cancelled += cancelled
        self.live = [id_ for id_ in [*self.live, *(each.id for each in admitted)] if id_ not in cancelled]
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.live:
            row = torch.zeros(10)
            row[self.next] = 1.0
            self.runner.choose(self.live, row.repeat(len(self.live), 1))
            self.live = [id_ for id_ in self.live if self.runner._live[id_].ended is None]
        return [Prefill(each.id, 1, 1, 0) for each in admitted]

    def reset(self) -> None:
        self.live, self.resets = [], self.resets + 1


@dataclass
class Bench:
    """A runner on a thread of its own, and what it told."""

    runner: Runner
    batch: Batch
    heard: queue.Queue[tuple[str, Heard]] = field(default_factory=queue.Queue)

    def submit(self, id_: str, limit: int = 1000) -> None:
        admit = Admit(id_, [1], limit, [STOP])
        sampler = Sampler(Sampling(temperature=0.0), [1], 0, None)
        self.runner.submit(Running(admit, sampler, lambda heard: self.heard.put((id_, heard))))

    def drop(self, id_: str) -> None:
        dropped = threading.Event()
        self.runner.drop(id_, dropped.set)
        assert dropped.wait(5)

    def until(self, id_: str, kind: type[Any]) -> Any:
        while True:
            who, heard = self.heard.get(timeout=5)
            if who == id_ and isinstance(heard, kind):
                return heard


@pytest.fixture
def bench() -> Iterator[Bench]:
    runner = Runner(lambda news: [sequence.hear(heard) for sequence, heard in news], 10.0)
    batch = Batch(runner)
    thread = threading.Thread(target=runner.run, args=(batch, None))
    thread.start()
    yield Bench(runner, batch)
    closed = threading.Event()
    runner.close(closed.set)
    assert closed.wait(5)
    thread.join(5)


def test_a_sequence_ends_at_its_limit(bench: Bench) -> None:
    bench.submit("a", limit=3)

    assert bench.until("a", Ended) == Ended("length")


def test_a_sequence_ends_at_a_stop_token(bench: Bench) -> None:
    bench.batch.next = STOP
    bench.submit("a")

    assert bench.until("a", Chosen).token == STOP
    assert bench.until("a", Ended) == Ended("stop")


def test_who_leaves_is_out_when_told_so(bench: Bench) -> None:
    bench.submit("a")
    bench.until("a", Chosen)

    bench.drop("a")

    assert bench.batch.live == []
    assert bench.batch.cancelled == ["a"]


def test_who_leaves_before_it_began_never_enters_the_batch(bench: Bench) -> None:
    bench.submit("busy")
    bench.until("busy", Chosen)
    bench.runner._orders.put(Running(Admit("a", [1], 5, []), Sampler(Sampling(), [1], 0, None), lambda _: None))
    bench.drop("a")

    assert "a" not in bench.batch.live


def test_leaving_what_is_over_is_answered_too(bench: Bench) -> None:
    bench.submit("a", limit=1)
    bench.until("a", Ended)

    bench.drop("a")
    bench.drop("never there")


def test_a_step_that_fails_spoils_what_it_computed_and_nothing_later(bench: Bench) -> None:
    bench.batch.error = RuntimeError("shapes do not match")
    bench.submit("a")

    assert bench.until("a", Spoilt) == Spoilt("RuntimeError: shapes do not match")

    bench.submit("b", limit=2)
    assert bench.until("b", Ended) == Ended("length")
    assert bench.batch.resets == 1
