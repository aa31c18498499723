"""The devices of a node, and which of them an engine is put on. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cortex.core.errors import NoFeasibleNode

SIMULATED_ENGINE = "simulated"
# Which devices are taken first; within a group, those with the most room.
_PREFERENCE: tuple[tuple[str, ...], ...] = (("simulated",), ("cuda", "rocm"), ("cpu",))


@dataclass(frozen=True, slots=True)
class Room:
    """A device and the bytes that are free on it now, less what loads in progress have reserved."""

    index: int
    kind: str
    name: str
    free_bytes: int
    ordinal: int = 0
    total_bytes: int = 0


Wish = int | Sequence[int] | Literal["auto"]
"""How many devices, which ones by index, or whatever suits."""


def choose_devices(
    engine: str, rooms: Sequence[Room], wanted: Wish, *, kinds: Collection[str] = (), floor_bytes: int = 0
) -> tuple[Room, ...]:
    """Return the devices to load on: those named, else the *wanted* number with the most room, GPUs before the CPU.

    *kinds* are what this installation of the engine can compute on; empty means all that an engine of its name may.
    Devices with less than *floor_bytes* in all do not count. A simulated engine prefers simulated devices; every other
    engine never sees them. Ties go to the lowest index. Raises NoFeasibleNode if the node does not have them.
    """
    usable = usable_rooms(engine, rooms, kinds)
    if not isinstance(wanted, int | str):
        named = [room for index in wanted for room in usable if room.index == index]
        if not named or len(named) != len(wanted) or len(set(wanted)) != len(wanted):
            have = ", ".join(str(room.index) for room in usable) or "none"
            raise NoFeasibleNode(f"devices {list(wanted)} were asked for; engine {engine!r} can use {have} here")
        return tuple(named)
    count = 1 if wanted == "auto" else int(wanted)
    pool = best_group(engine, usable, floor_bytes)
    if len(pool) < count:
        floor = f" of at least {_mib(floor_bytes)} MiB" if floor_bytes else ""
        raise NoFeasibleNode(f"{count} devices{floor} were asked for; engine {engine!r} can use {len(pool)} here")
    return tuple(sorted(pool, key=lambda room: (-room.free_bytes, room.index))[:count])


def usable_rooms(engine: str, rooms: Sequence[Room], kinds: Collection[str]) -> list[Room]:
    """Return those of *rooms* that *engine*, whose installation computes on *kinds*, may use."""
    possible = [room for room in rooms if not kinds or room.kind in kinds]
    return [room for room in possible if engine == SIMULATED_ENGINE or room.kind != "simulated"]


def best_group(engine: str, usable: Sequence[Room], floor_bytes: int) -> list[Room]:
    """Return the devices of the best group that is there, of those large enough."""
    kinds = preferred_kinds(engine, (), tuple(room.kind for room in usable))
    return [room for room in usable if room.kind in kinds and room.total_bytes >= floor_bytes]


@lru_cache(maxsize=1024)
def preferred_kinds(engine: str, able: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, ...]:
    """Return the kinds of devices that *engine* is put on, of those *present* and *able*: one group's, or none."""
    usable = [kind for kind in present if kind in able or not able]
    return next(filter(None, (tuple(kind for kind in usable if kind in group) for group in _preference_of(engine))), ())


def _preference_of(engine: str) -> tuple[tuple[str, ...], ...]:
    """Return the groups of devices, the best first; what is simulated takes a real GPU's memory from nobody."""
    return (_PREFERENCE[0], _PREFERENCE[2]) if engine == SIMULATED_ENGINE else _PREFERENCE[1:]


def _mib(bytes_: int) -> int:
    return -(-bytes_ // (1 << 20))
