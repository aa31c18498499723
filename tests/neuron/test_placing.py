"""Where a model goes on a node: on as few devices as hold it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import InsufficientMemory, NoFeasibleNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, Wish, choose_devices
from cortex.fleet.fit import FLOOR_BYTES, check_fit
from cortex.neuron.needs import Need, shared
from cortex.neuron.placing import Place, find_place

MIB = 1 << 20
SPEC = ModelSpec(id="m")


class Board:
    """Devices with the decisions of `fleet.fit` over them; *free_mb* can change while a need is asked for."""

    def __init__(self, free_mb: Sequence[int]) -> None:
        self.free_mb = list(free_mb)

    def _rooms(self) -> list[Room]:
        return [Room(at, "cuda", f"gpu{at}", mb * MIB) for at, mb in enumerate(self.free_mb)]

    def choose(self, spec: ModelSpec, wish: Wish) -> tuple[Room, ...]:
        return choose_devices("e", self._rooms(), wish)

    def lack(self, model: str, need: Need) -> InsufficientMemory | None:
        try:
            check_fit(model, need.by_device, [room for room in self._rooms() if room.index in need.by_device])
        except InsufficientMemory as error:
            return error
        return None


def place(free_mb: Sequence[int], needed_mb: int, wish: Wish = "auto", *, splits: bool = True) -> Place:
    async def need_on(rooms: Sequence[Room]) -> Need:
        devices = [room.index for room in (rooms if splits else rooms[:1])]
        return Need(shared(needed_mb * MIB, devices), "estimate")

    return anyio.run(partial(find_place, Board(free_mb), SPEC, wish, need_on))


@pytest.mark.parametrize(
    ("free_mb", "needed_mb", "devices"),
    [
        ([8000, 9000], 7000, (1,)),
        ([24000, 24000], 40000, (0, 1)),
        ([24000, 24000, 24000], 60000, (0, 1, 2)),
        ([24000, 24000, 1000], 40000, (0, 1)),
    ],
)
def test_the_smallest_number_of_devices_that_hold_it_is_taken(
    free_mb: list[int], needed_mb: int, devices: tuple[int, ...]
) -> None:
    found = place(free_mb, needed_mb)

    assert (found.indices, found.lack) == (devices, None)


def test_two_devices_are_not_one_of_twice_the_size() -> None:
    """48 GB in all, but each half needs what stays free of its device too."""
    found = place([24000, 24000], 48000)

    assert found.indices == (0, 1)
    assert "256 MiB are missing" in str(found.lack)


def test_a_larger_device_does_not_make_up_for_a_smaller_one() -> None:
    found = place([40000, 8000], 44000)

    assert "gpu1" in str(found.lack)
    assert "gpu0" not in str(found.lack)


def test_an_engine_that_does_not_split_a_model_gets_one_device() -> None:
    found = place([8000, 8000, 8000], 9000, splits=False)

    assert found.indices == (0,)
    assert "1256 MiB are missing" in str(found.lack)


@pytest.mark.parametrize(("wish", "devices"), [(1, (0,)), ([1], (1,)), ([1, 0], (1, 0)), (2, (0, 1))])
def test_a_number_or_a_list_is_taken_as_it_is(wish: Wish, devices: tuple[int, ...]) -> None:
    small, large = place([8000, 8000, 8000], 100, wish), place([8000, 8000, 8000], 90000, wish)

    assert (small.indices, small.lack) == (devices, None)
    assert large.indices == devices
    assert large.lack is not None


def test_a_model_of_which_nothing_is_known_goes_on_one_device() -> None:
    async def unknown(_: Sequence[Room]) -> Need:
        return Need({}, "unknown")

    found = anyio.run(find_place, Board([100, 50]), SPEC, "auto", unknown)

    assert (found.indices, found.lack) == ((0,), None)


def test_no_device_at_all_is_no_place() -> None:
    with pytest.raises(NoFeasibleNode):
        place([], 100)


def test_a_device_that_was_taken_while_the_engine_was_asked_is_not_insisted_on() -> None:
    board = Board([9000, 8000])

    async def need_on(rooms: Sequence[Room]) -> Need:
        board.free_mb[0] = 1000
        return Need({rooms[0].index: 5000 * MIB}, "estimate")

    found = anyio.run(find_place, board, SPEC, "auto", need_on)

    assert (found.indices, found.lack) == ((1,), None)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=8), st.integers(1, 400_000))
def test_a_place_holds_the_model_and_no_smaller_number_of_devices_would(free_mb: list[int], needed_mb: int) -> None:
    found = place(free_mb, needed_mb)
    by_room = sorted(free_mb, reverse=True)
    fitting = [n for n in range(1, len(free_mb) + 1) if needed_mb / n <= by_room[n - 1] - FLOOR_BYTES // MIB]

    assert (found.lack is None) == bool(fitting)
    assert len(found.rooms) == (fitting[0] if fitting else len(free_mb))
    assert sum(found.need.by_device.values()) >= needed_mb * MIB
