"""Decide which devices a model goes on, and whether it fits there. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cortex.core.errors import InsufficientMemory, NoFeasibleNode

# What stays free on a device besides the model: drivers, our own processes, what the estimate missed.
FLOOR_BYTES = 256 << 20
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
    possible = [room for room in rooms if not kinds or room.kind in kinds]
    usable = [room for room in possible if engine == SIMULATED_ENGINE or room.kind != "simulated"]
    if not isinstance(wanted, int | str):
        named = [room for index in wanted for room in usable if room.index == index]
        if not named or len(named) != len(wanted) or len(set(wanted)) != len(wanted):
            have = ", ".join(str(room.index) for room in usable) or "none"
            raise NoFeasibleNode(f"devices {list(wanted)} were asked for; engine {engine!r} can use {have} here")
        return tuple(named)
    count = 1 if wanted == "auto" else int(wanted)
    groups = [[room for room in usable if room.kind in group] for group in _preference_of(engine)]
    pool = [room for room in next(filter(None, groups), []) if room.total_bytes >= floor_bytes]
    if len(pool) < count:
        floor = f" of at least {_mib(floor_bytes)} MiB" if floor_bytes else ""
        raise NoFeasibleNode(f"{count} devices{floor} were asked for; engine {engine!r} can use {len(pool)} here")
    return tuple(sorted(pool, key=lambda room: (-room.free_bytes, room.index))[:count])


def _preference_of(engine: str) -> tuple[tuple[str, ...], ...]:
    """Return the groups of devices, the best first; what is simulated takes a real GPU's memory from nobody."""
    return (_PREFERENCE[0], _PREFERENCE[2]) if engine == SIMULATED_ENGINE else _PREFERENCE[1:]


def check_fit(model: str, needed: Mapping[int, int], rooms: Sequence[Room]) -> None:
    """Raise InsufficientMemory, saying what is missing on each device, unless *needed* bytes fit on all of *rooms*."""
    missing = [
        f"{_mib(needed[room.index])} MiB on {room.name} (device {room.index}), where {_mib(usable)} MiB can be used: "
        f"{_mib(needed[room.index] - usable)} MiB are missing"
        for room in rooms
        if needed.get(room.index, 0) > (usable := max(0, room.free_bytes - FLOOR_BYTES))
    ]
    if missing:
        raise InsufficientMemory(f"{model} needs {'; and '.join(missing)}")


def _mib(bytes_: int) -> int:
    return -(-bytes_ // (1 << 20))
