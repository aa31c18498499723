"""Decide how many and which devices a model goes on: as few as it fits on, and it must fit on each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cortex.core.errors import InsufficientMemory, NoFeasibleNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, Wish
from cortex.neuron.needs import Need

NeedOn = Callable[[Sequence[Room]], Awaitable[Need]]


class Rooms(Protocol):
    """What is needed here of `neuron.memory`."""

    def choose(self, spec: ModelSpec, wish: Wish) -> tuple[Room, ...]:
        """Return the devices that *spec* goes on now. Raises NoFeasibleNode."""
        ...

    def lack(self, model: str, need: Need) -> InsufficientMemory | None:
        """Return what refuses *need* now."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Devices, what the model takes there, and what refuses it there, which was true when this was returned."""

    rooms: tuple[Room, ...]
    need: Need
    lack: InsufficientMemory | None

    @property
    def indices(self) -> tuple[int, ...]:
        """The devices by index."""
        return tuple(room.index for room in self.rooms)


async def find_place(rooms: Rooms, spec: ModelSpec, wish: Wish, need_on: NeedOn) -> Place:
    """Return where *spec* goes; with *wish* `auto`, on the smallest number of devices that hold it together.

    If none does, the place says what is missing on the largest number that would help. Nothing is awaited after the
    last check: who reserves at once, reserves what was checked. Raises NoFeasibleNode, and what *need_on* raises.
    """
    if wish != "auto":
        return await _place_on(rooms, spec, wish, need_on)
    place = await _place_on(rooms, spec, 1, need_on)
    while place.lack is not None:
        try:
            wider = await _place_on(rooms, spec, len(place.rooms) + 1, need_on)
        except NoFeasibleNode:
            break
        if _most(wider) >= _most(place):
            break  # the engine does not split this model
        place = wider
    return place


async def _place_on(rooms: Rooms, spec: ModelSpec, wish: Wish, need_on: NeedOn) -> Place:
    """Choose devices, and again while what is needed there was asked and another load took them."""
    chosen = rooms.choose(spec, wish)
    while True:
        place = Place(chosen, need := await need_on(chosen), rooms.lack(spec.id, need))
        chosen = rooms.choose(spec, wish)
        if place.lack is None or {room.index for room in chosen} == set(place.indices):
            return place


def _most(place: Place) -> int:
    return max(place.need.by_device.values(), default=0)
