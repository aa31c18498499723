"""Decide which devices a model goes on, and whether it fits there. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cortex.core.errors import InsufficientMemory, NoFeasibleNode

# What stays free on a device besides the model: drivers, our own processes, what the estimate missed.
FLOOR_BYTES = 256 << 20
SIMULATED_ENGINE = "simulated"
_GPU_KINDS = ("cuda", "rocm")


@dataclass(frozen=True, slots=True)
class Room:
    """A device and the bytes that are free on it now, less what loads in progress have reserved."""

    index: int
    kind: str
    name: str
    free_bytes: int
    ordinal: int = 0


Wish = int | Sequence[int] | Literal["auto"]
"""How many devices, which ones by index, or whatever suits."""


def choose_devices(engine: str, rooms: Sequence[Room], wanted: Wish) -> tuple[Room, ...]:
    """Return the devices to load on: those named, else the *wanted* number with the most room, GPUs before the CPU.

    A simulated engine prefers simulated devices; every other engine never sees them. Ties go to the lowest index.
    Raises NoFeasibleNode if the node does not have them.
    """
    usable = [room for room in rooms if engine == SIMULATED_ENGINE or room.kind != "simulated"]
    if not isinstance(wanted, int | str):
        named = [room for index in wanted for room in usable if room.index == index]
        if not named or len(named) != len(wanted) or len(set(wanted)) != len(wanted):
            have = ", ".join(str(room.index) for room in usable) or "none"
            raise NoFeasibleNode(f"devices {list(wanted)} were asked for; engine {engine!r} can use {have} here")
        return tuple(named)
    count = 1 if wanted == "auto" else int(wanted)
    preferred = ("simulated",) if engine == SIMULATED_ENGINE else _GPU_KINDS
    pool = [room for room in usable if room.kind in preferred] or [room for room in usable if room.kind == "cpu"]
    if len(pool) < count:
        raise NoFeasibleNode(f"{count} devices were asked for; engine {engine!r} can use {len(pool)} here")
    return tuple(sorted(pool, key=lambda room: (-room.free_bytes, room.index))[:count])


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
