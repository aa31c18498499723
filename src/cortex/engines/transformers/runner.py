"""The thread that computes: it owns the batch, takes sequences in and out between steps, and tells what came of them.

Nobody waits on a step but this thread. Who wants an answer subscribes to it; when they leave, their sequence is out of
the batch before the next step, and they are told so.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cortex.engines.transformers.batch import Prefill
from cortex.engines.transformers.grammar import GrammarError
from cortex.engines.transformers.group import Group
from cortex.engines.transformers.member import Member
from cortex.engines.transformers.messages import Admit, Step
from cortex.engines.transformers.sampling import Chosen, Sampler


@dataclass(frozen=True, slots=True)
class Ended:
    """A sequence is out of the batch: `stop` by a token of the model's, `length` by its limit."""

    reason: str


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A sequence is out of the batch because of an error, which is not the request's fault."""

    message: str


Heard = Prefill | Chosen | Ended | Spoilt
Tell = Callable[[Sequence[tuple["Running", Heard]]], None]
"""`tell(news)`: what one step brought, called from the thread that computes."""


@dataclass(eq=False, slots=True)
class Running:
    """One sequence as the thread knows it, and who hears of it."""

    admit: Admit
    sampler: Sampler
    hear: Callable[[Heard], None]
    generated: int = 0
    ended: Ended | Spoilt | None = None


@dataclass(frozen=True, slots=True)
class _Drop:
    id: str
    dropped: Callable[[], object]


@dataclass(frozen=True, slots=True)
class _Close:
    closed: Callable[[], object]


_Order = Running | _Drop | _Close


class Runner:
    """Owns the sequences. Orders come from any thread; all else is the thread's, with `choose` for the batch to ask."""

    def __init__(self, tell: Tell, step_seconds: float) -> None:
        self._tell, self._step_seconds = tell, step_seconds
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._live: dict[str, Running] = {}
        self._news: list[tuple[Running, Heard]] = []

    def submit(self, sequence: Running) -> None:
        """Let *sequence* into the batch at the next step."""
        self._orders.put(sequence)

    def drop(self, id_: str, dropped: Callable[[], object]) -> None:
        """Take the sequence *id_* out, wherever it is, and call *dropped* from the thread when its slot is free."""
        self._orders.put(_Drop(id_, dropped))

    def close(self, closed: Callable[[], object]) -> None:
        """End the thread's loop after the step under way."""
        self._orders.put(_Close(closed))

    def choose(self, ids: Sequence[str], logits: Any) -> Any:
        """Return the next token of each of *ids*, and note it."""
        tokens = logits.argmax(-1)
        for row, id_ in enumerate(ids):
            sequence = self._live[id_]
            if sequence.ended is None:
                chosen = self._chosen(sequence, tokens, logits, row)
                tokens[row] = chosen.token
                self._note(sequence, chosen)
        return tokens

    def _chosen(self, sequence: Running, tokens: Any, logits: Any, row: int) -> Chosen:
        if sequence.sampler.is_plain:
            return Chosen(int(tokens[row]))
        try:
            return sequence.sampler.choose(logits[row].float().cpu())
        except GrammarError as error:
            self._end(sequence, Spoilt(f"the answer left its grammar: {error}"))
            return Chosen(sequence.admit.stop_ids[0] if sequence.admit.stop_ids else 0)

    def _note(self, sequence: Running, chosen: Chosen) -> None:
        if sequence.ended is not None:
            return
        sequence.generated += 1
        self._news.append((sequence, chosen))
        if chosen.token in sequence.admit.stop_ids:
            self._end(sequence, Ended("stop"))
        elif sequence.generated >= sequence.admit.limit:
            self._end(sequence, Ended("length"))

    def _end(self, sequence: Running, ended: Ended | Spoilt) -> None:
        sequence.ended = ended
        self._news.append((sequence, ended))

    def run(self, member: Member, group: Group | None) -> None:
        """Compute until `close`; the caller's thread is the one that computes."""
        while True:
            orders = self._waiting(block=not self._live)
            closing = next((order for order in orders if isinstance(order, _Close)), None)
            if closing is not None:
                closing.closed()
                return
            self._work(orders, member, group)

    def _waiting(self, *, block: bool) -> list[_Order]:
        orders = [self._orders.get()] if block else []
        try:
            while True:
                orders.append(self._orders.get_nowait())
        except queue.Empty:
            return orders

    def _work(self, orders: Sequence[_Order], member: Member, group: Group | None) -> None:
        """Make one step with *orders*, and tell what it brought."""
        drops = [order for order in orders if isinstance(order, _Drop)]
        fresh = {o.admit.id: o for o in orders if isinstance(o, Running)}
        gone = {drop.id for drop in drops}
        admitted = {id_: sequence for id_, sequence in fresh.items() if id_ not in gone}
        self._live |= admitted
        cancelled = [id_ for id_ in gone if self._live.pop(id_, None) is not None]
        try:
            prefills = self._step([each.admit for each in admitted.values()], cancelled, member, group)
            self._news[:0] = [(self._live[p.id], p) for p in prefills if p.id in self._live]
        except (RuntimeError, ValueError, IndexError, torch.OutOfMemoryError, MemoryError) as error:
            self._spoil(error, member)
        self._live = {id_: each for id_, each in self._live.items() if each.ended is None}
        news, self._news = self._news, []
        if news:
            self._tell(news)
        for drop in drops:
            drop.dropped()

    def _step(self, admitted: list[Admit], cancelled: list[str], member: Member, group: Group | None) -> list[Prefill]:
        if group is None:
            return member.step(admitted, cancelled)
        try:
            id_ = group.tell(Step(0, admitted, cancelled), self._step_seconds)
            prefills = member.step(admitted, cancelled)
            group.settle(id_)
        except Exception as error:  # half a step is in some rank: the group is over, whatever it was
            group.fail(f"rank 0 of {group.ranks} failed: {type(error).__name__}: {error}")
            raise
        return prefills

    def _spoil(self, error: Exception, member: Member) -> None:
        """Fail every sequence because of *error*; the next ones find an empty batch."""
        for sequence in self._live.values():
            if sequence.ended is None:
                self._end(sequence, Spoilt(f"{type(error).__name__}: {error}"))
        member.reset()


class Clock:
    """When a request was submitted, when its first token came, and when it ended, for its timings in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None

    def token(self) -> None:
        """Note that a token came."""
        if self._first is None:
            self._first = time.perf_counter()

    def spans(self) -> tuple[float, float]:
        """Return the milliseconds before the first token, and since."""
        now = time.perf_counter()
        first = self._first if self._first is not None else now
        return 1000 * (first - self._began), 1000 * (now - first)
