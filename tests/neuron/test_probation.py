"""Requests that engines died of: who waits for whom, who is cleared, who is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from cortex.core.errors import EngineFailed, PoisonRequest
from cortex.neuron.probation import Probation, Trial
from cortex.wire.engine_api import Chunk, Finished, Progress, Timings, Usage

CHUNK, END = Chunk("1", b"{}"), Finished("1", "stop", Usage(), Timings())
BOUND_SECONDS = 5


class Scene:
    """A replica's turn, and requests that are tried at it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.probation = Probation(clock=lambda: self.now)
        self.turn = anyio.Semaphore(1)

    def trial(self, body: bytes) -> Trial:
        return Trial(self.probation, self.turn, "m", "chat", body)

    async def dies(self, body: bytes, chunks: int = 0, *, at_work: bool = True) -> None:
        with pytest.raises(EngineFailed):  # noqa: PT012 - the trial is to see it too
            async with self.trial(body) as trial:
                for _ in range(chunks):
                    trial.saw(CHUNK)
                raise EngineFailed("boom", at_work=at_work)


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(BOUND_SECONDS):
            await scene(Scene())

    anyio.run(bounded)


def test_a_request_that_killed_two_engines_is_refused() -> None:
    async def scene(it: Scene) -> None:
        await it.dies(b"poison")
        await it.dies(b"poison")

        with pytest.raises(PoisonRequest):
            await it.trial(b"poison").__aenter__()
        async with it.trial(b"another"):
            pass

    play(scene)


def test_an_engine_that_died_before_it_began_is_not_held_against_a_request() -> None:
    async def scene(it: Scene) -> None:
        for _ in range(3):
            await it.dies(b"innocent", at_work=False)

        assert not it.probation.suspects

    play(scene)


def test_suspects_take_turns_and_others_do_not_wait() -> None:
    order: list[str] = []

    async def second(it: Scene) -> None:
        async with it.trial(b"b"):
            order.append("b")

    async def scene(it: Scene) -> None:
        await it.dies(b"a")
        await it.dies(b"b")
        async with anyio.create_task_group() as tasks, it.trial(b"a"):
            tasks.start_soon(second, it)
            await anyio.wait_all_tasks_blocked()
            async with it.trial(b"unsuspected"):
                order.append("unsuspected")
            order.append("a")

    play(scene)
    assert order == ["unsuspected", "a", "b"]


def test_who_comes_further_than_before_is_cleared_and_the_next_has_its_turn() -> None:
    async def scene(it: Scene) -> None:
        await it.dies(b"a", chunks=2)
        await it.dies(b"b")
        async with it.trial(b"a") as trial:
            for _ in range(3):
                trial.saw(CHUNK)
            assert it.turn.value == 0
            trial.saw(CHUNK)
            assert it.turn.value == 1
            async with it.trial(b"b") as other:
                other.saw(Progress("1", "prefill", 1, 1))
                other.saw(END)

        assert not it.probation.suspects

    play(scene)


def test_of_two_alike_the_second_is_refused_when_the_first_was_the_second_death() -> None:
    ends: list[str] = []

    async def second(it: Scene) -> None:
        try:
            async with it.trial(b"poison"):
                ends.append("let in")
        except PoisonRequest:
            ends.append("refused")

    async def scene(it: Scene) -> None:
        await it.dies(b"poison")
        async with anyio.create_task_group() as tasks:
            with pytest.raises(EngineFailed):  # noqa: PT012 - it dies while the other waits
                async with it.trial(b"poison"):
                    tasks.start_soon(second, it)
                    await anyio.wait_all_tasks_blocked()
                    raise EngineFailed("boom", at_work=True)

        assert ends == ["refused"]
        assert it.turn.value == 1

    play(scene)


def test_who_leaves_while_it_waits_or_has_its_turn_gives_it_up() -> None:
    async def wait(it: Scene) -> None:
        async with it.trial(b"b"):
            raise AssertionError("it was let in")

    async def scene(it: Scene) -> None:
        await it.dies(b"a")
        await it.dies(b"b")
        async with it.trial(b"a"), anyio.create_task_group() as tasks:
            tasks.start_soon(wait, it)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

        assert it.turn.value == 1
        async with it.trial(b"b"):
            assert it.turn.value == 0

    play(scene)


def test_what_a_gateway_counted_elsewhere_counts_here() -> None:
    async def scene(it: Scene) -> None:
        it.probation.hear("m", "chat", b"poison", 1)
        await it.dies(b"poison")

        with pytest.raises(PoisonRequest):
            await it.trial(b"poison").__aenter__()

    play(scene)
