from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.engines.host import Slots


class Crowd:
    """Requests by name that take slots and hold them until they are told to leave."""

    def __init__(self, total: int, tasks: TaskGroup) -> None:
        self.slots = Slots(total)
        self.served: list[str] = []
        self.holding: dict[str, int] = {}
        self._tasks = tasks
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._leave: dict[str, anyio.Event] = {}

    async def comes(self, name: str, wanted: int = 1) -> None:
        self._scopes[name], self._leave[name] = anyio.CancelScope(), anyio.Event()
        self._tasks.start_soon(self._stay, name, wanted)
        await settle()

    async def leaves(self, name: str) -> None:
        self._leave[name].set()
        await settle()

    async def hangs_up(self, *names: str) -> None:
        for name in names:
            self._scopes[name].cancel()
        await settle()

    async def _stay(self, name: str, wanted: int) -> None:
        with self._scopes[name]:
            taken = await self.slots.acquire(wanted)
            self.served.append(name)
            self.holding[name] = taken
            try:
                await self._leave[name].wait()
            finally:
                self.slots.release(self.holding.pop(name))


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(8):
        await checkpoint()


def play(total: int, scene: Callable[[Crowd], Awaitable[None]]) -> Crowd:
    """Run *scene*, send everybody home, and check that all slots are back."""

    async def run() -> Crowd:
        async with anyio.create_task_group() as tasks:
            crowd = Crowd(total, tasks)
            await scene(crowd)
            tasks.cancel_scope.cancel()
        return crowd

    crowd = anyio.run(run)
    assert crowd.slots.free == total
    return crowd


def test_those_who_fit_do_not_wait() -> None:
    async def scene(crowd: Crowd) -> None:
        await crowd.comes("a")
        await crowd.comes("b", 2)
        assert crowd.served == ["a", "b"]
        assert crowd.slots.free == 0

    play(3, scene)


def test_waiters_are_served_in_the_order_they_came() -> None:
    async def scene(crowd: Crowd) -> None:
        for name in "abcd":
            await crowd.comes(name)
        assert crowd.served == ["a"]
        for name in "abc":
            await crowd.leaves(name)

    assert play(1, scene).served == ["a", "b", "c", "d"]


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    async def scene(crowd: Crowd) -> None:
        await crowd.comes("holder")
        await crowd.comes("large", 2)
        await crowd.comes("small")
        assert crowd.served == ["holder"]
        assert crowd.slots.free == 1
        await crowd.leaves("holder")
        assert crowd.served == ["holder", "large"]
        await crowd.leaves("large")
        assert crowd.served == ["holder", "large", "small"]

    play(2, scene)


def test_one_that_leaves_can_make_room_for_several() -> None:
    async def scene(crowd: Crowd) -> None:
        await crowd.comes("wide", 3)
        for name in "abc":
            await crowd.comes(name)
        await crowd.leaves("wide")
        assert crowd.served == ["wide", "a", "b", "c"]

    play(3, scene)


@pytest.mark.parametrize(("total", "wanted", "taken"), [(4, 2, 2), (4, 4, 4), (4, 9, 4), (1, 128, 1)])
def test_nobody_takes_more_than_there_are(total: int, wanted: int, taken: int) -> None:
    async def scene(crowd: Crowd) -> None:
        await crowd.comes("a", wanted)
        assert crowd.holding == {"a": taken}

    play(total, scene)


def test_a_waiter_that_hangs_up_is_passed_over() -> None:
    async def scene(crowd: Crowd) -> None:
        for name in "abc":
            await crowd.comes(name)
        await crowd.hangs_up("b")
        await crowd.leaves("a")
        assert crowd.served == ["a", "c"]

    play(1, scene)


def test_a_waiter_that_hangs_up_as_its_turn_comes_gives_it_on() -> None:
    async def scene(crowd: Crowd) -> None:
        for name in "abc":
            await crowd.comes(name)
        crowd._leave["a"].set()
        await checkpoint()
        await crowd.hangs_up("b")
        assert crowd.slots.free == 0
        assert "c" in crowd.holding

    play(1, scene)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("comes"), st.integers(1, 5)),
        st.tuples(st.just("leaves"), st.integers(0, 11)),
        st.tuples(st.just("hangs_up"), st.integers(0, 11)),
        st.tuples(st.just("crossing"), st.integers(0, 11)),
    ),
    max_size=12,
)


async def act(crowd: Crowd, came: list[str], step: str, number: int) -> None:
    if step == "comes":
        came.append(f"r{len(came)}")
        await crowd.comes(came[-1], number)
    elif number < len(came):
        if step == "leaves":
            await crowd.leaves(came[number])
        elif step == "hangs_up":
            await crowd.hangs_up(came[number])
        else:  # somebody leaves, and before the turn is taken the last to come hangs up
            crowd._leave[came[number]].set()
            await checkpoint()
            await crowd.hangs_up(came[-1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), STEPS)
def test_no_slot_is_ever_lost_or_given_twice(total: int, steps: list[tuple[str, int]]) -> None:
    async def scene(crowd: Crowd) -> None:
        came: list[str] = []
        for step, number in steps:
            await act(crowd, came, step, number)
            assert crowd.slots.free + sum(crowd.holding.values()) == total
            assert crowd.slots.free >= 0
        assert crowd.served == sorted(crowd.served, key=lambda name: int(name[1:]))
        for name in came:
            await crowd.leaves(name)
        assert crowd.slots.free == total

    play(total, scene)


def test_with_all_slots_free_nobody_waits() -> None:
    async def scene(crowd: Crowd) -> None:
        await crowd.comes("a")
        await crowd.comes("b", 2)
        await crowd.hangs_up("b", "a")
        await crowd.comes("c", 2)
        assert crowd.holding == {"c": 2}

    play(2, scene)
