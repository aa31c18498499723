"""Decide which devices a model goes on, and whether it fits there. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations

from cortex.core.errors import InsufficientMemory, NoFeasibleNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, best_group, choose_devices, usable_rooms
from cortex.fleet.situation import Need
from cortex.fleet.view import NodeView

# What stays free on a device besides the model: drivers, our own processes, what the estimate missed.
FLOOR_BYTES = 256 << 20
# How many sets of devices are looked at on one node; all of them for any split over up to eight devices.
SETS_TRIED = 128


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
    pool = best_group(spec.engine_name, usable_rooms(spec.engine_name, node.rooms, kinds), floor)
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
