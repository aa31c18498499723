"""Decide which devices a model goes on, and whether it fits there. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice, permutations
from typing import TYPE_CHECKING, Literal

from cortex.core.errors import InsufficientMemory, NoFeasibleNode
from cortex.core.model_spec import ModelSpec

if TYPE_CHECKING:
    from cortex.fleet.situation import Need
    from cortex.fleet.view import NodeView

# What stays free on a device besides the model: drivers, our own processes, what the estimate missed.
FLOOR_BYTES = 256 << 20
SIMULATED_ENGINE = "simulated"
# How many sets of devices are looked at on one node; all of them for any split over up to eight devices.
SETS_TRIED = 128
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
    usable = _usable(engine, rooms, kinds)
    if not isinstance(wanted, int | str):
        named = [room for index in wanted for room in usable if room.index == index]
        if not named or len(named) != len(wanted) or len(set(wanted)) != len(wanted):
            have = ", ".join(str(room.index) for room in usable) or "none"
            raise NoFeasibleNode(f"devices {list(wanted)} were asked for; engine {engine!r} can use {have} here")
        return tuple(named)
    count = 1 if wanted == "auto" else int(wanted)
    pool = _pool(engine, usable, floor_bytes)
    if len(pool) < count:
        floor = f" of at least {_mib(floor_bytes)} MiB" if floor_bytes else ""
        raise NoFeasibleNode(f"{count} devices{floor} were asked for; engine {engine!r} can use {len(pool)} here")
    return tuple(sorted(pool, key=lambda room: (-room.free_bytes, room.index))[:count])


def _usable(engine: str, rooms: Sequence[Room], kinds: Collection[str]) -> list[Room]:
    possible = [room for room in rooms if not kinds or room.kind in kinds]
    return [room for room in possible if engine == SIMULATED_ENGINE or room.kind != "simulated"]


def _pool(engine: str, usable: Sequence[Room], floor_bytes: int) -> list[Room]:
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


@dataclass(frozen=True, slots=True)
class DeviceSets:
    """The sets of devices of one node that a model could go on: any `count` of `rooms`.

    `shares` are the bytes on each device of a set, in the set's order; empty if they are not known.
    """

    rooms: tuple[Room, ...]
    count: int
    shares: tuple[int, ...] = ()

    def roomiest(self, bytes_: Mapping[int, int]) -> tuple[Room, ...] | None:
        """Return the set with the most of *bytes_*, which are by device index, that holds all shares; None without."""
        return next(self.within(bytes_), None)

    def within(self, bytes_: Mapping[int, int]) -> Iterator[tuple[Room, ...]]:
        """Yield the sets where each share fits into the *bytes_* of its device, the roomiest first.

        If there is any, there is a first: the largest shares on the roomiest devices. At most SETS_TRIED are tried.
        """
        by_room = sorted(self.rooms, key=lambda room: (-bytes_[room.index], room.index))
        if len(set(self.shares)) <= 1:
            able = [room for room in by_room if not self.shares or bytes_[room.index] >= self.shares[0]]
            yield from islice(combinations(able, self.count), SETS_TRIED)
            return
        able = [room for room in by_room if bytes_[room.index] >= min(self.shares)]
        by_share = sorted(range(self.count), key=lambda at: -self.shares[at])
        for rooms in islice(permutations(able, self.count), SETS_TRIED):
            if all(bytes_[room.index] >= self.shares[at] for room, at in zip(rooms, by_share, strict=True)):
                placed = dict(zip(by_share, rooms, strict=True))
                yield tuple(placed[at] for at in range(self.count))


def device_sets(spec: ModelSpec, node: NodeView, need: Need) -> DeviceSets:
    """Return the sets of devices of *node* that could hold *need* if nothing else were there.

    Which devices: as in `choose_devices`. How many: as many as the catalogue says, else the fewest whose totals hold a
    share each beside the floor; an unknown need counts as one device. Raises NoFeasibleNode, naming what is too small.
    """
    kinds = node.engine_devices.get(spec.engine_name, ())
    wanted, floor = spec.wanted_devices, spec.device_floor_bytes
    least = choose_devices(spec.engine_name, node.rooms, wanted, kinds=kinds, floor_bytes=floor)
    pool = _pool(spec.engine_name, _usable(spec.engine_name, node.rooms, kinds), floor)
    if not need.bytes_each:
        return DeviceSets(tuple(pool), len(least))
    totals = {room.index: max(room.total_bytes, room.free_bytes) - FLOOR_BYTES for room in pool}
    counts = range(1, len(pool) + 1) if wanted == "auto" else (len(least),)
    for count in counts:
        sets = DeviceSets(tuple(pool), count, need.over(count))
        if sets.roomiest(totals):
            return sets
    shares, largest = need.over(counts[-1]), sorted(totals.values(), reverse=True)[: counts[-1]]
    split = "on one device" if len(shares) == 1 else f"over {len(shares)} devices, {_mib(max(shares))} MiB on one"
    raise NoFeasibleNode(
        f"{spec.id} needs {_mib(sum(shares))} MiB {split}; of the devices here "
        f"{', '.join(str(total >> 20) for total in largest)} MiB can be used at best"
    )


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
