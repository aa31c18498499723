"""Say what stands in a model's way on a node: on the devices that come closest to holding it, who has them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cortex.fleet.devices import Room
from cortex.fleet.fit import FLOOR_BYTES, DeviceSets
from cortex.fleet.plan import Ask, Ledger, add
from cortex.fleet.view import NodeView


class DeviceRoom(NamedTuple):
    """A device that the model would go on: its usable bytes now, and those that it needs there."""

    device: int
    name: str
    free_bytes: int
    needed_bytes: int


def rooms_of(node: NodeView, indices: Sequence[int], shares: Sequence[int], ledger: Ledger) -> tuple[DeviceRoom, ...]:
    """Return the devices of *node* with these *indices*, which the model takes *shares* of; no share is told as 0."""
    names = {room.index: room.name for room in node.rooms}
    needed = shares or (0,) * len(indices)
    return tuple(
        DeviceRoom(index, names[index], ledger.free_bytes[index], share)
        for index, share in zip(indices, needed, strict=True)
    )


def closest(ask: Ask, node: NodeView, sets: DeviceSets, ledger: Ledger) -> tuple[int, ...]:
    """Return the devices, of those large enough, that come closest to holding the model.

    Closest is where it fits once those are gone that may go for it, sooner or later; then where it fits once all
    models are; then where the fewest bytes are missing now.
    """
    free, held, plans = ledger.free_bytes, ledger.residents, [claim.bytes_by_device for claim in ledger.claims]
    going = [resident.bytes_by_device for resident in held if ask.outranks(resident.spot[1], node.name)]
    without_those = add(free, *plans, *going)
    without_all = add(free, *plans, *(resident.bytes_by_device for resident in held))

    def missing(rooms: tuple[Room, ...], bytes_: Mapping[int, int]) -> int:
        return sum(max(0, share - bytes_[room.index]) for room, share in zip(rooms, sets.shares, strict=True))

    def distance(rooms: tuple[Room, ...]) -> tuple[bool, bool, int]:
        return missing(rooms, without_those) > 0, missing(rooms, without_all) > 0, missing(rooms, free)

    totals = {room.index: max(room.total_bytes, room.free_bytes) - FLOOR_BYTES for room in sets.rooms}
    return tuple(room.index for room in min(sets.within(totals), key=distance))


def obstacles(ask: Ask, node: NodeView, devices: Sequence[DeviceRoom], ledger: Ledger) -> Iterator[str]:
    """Say what is missing on each of *devices*, and of everything on them why it stays."""
    totals = {room.index: room.total_bytes - room.free_bytes for room in node.rooms}
    for room in devices:
        where, missing = f"{room.name} (device {room.device})", room.needed_bytes - room.free_bytes
        if missing <= 0:
            continue
        usable = max(0, room.free_bytes)
        yield (
            f"{_mib(room.needed_bytes)} MiB are needed on {where}, where {usable >> 20} MiB can be used: "
            f"{_mib(room.needed_bytes - usable)} MiB are missing"
        )
        other = totals[room.device]
        for resident in ledger.residents:
            held = resident.bytes_by_device.get(room.device, 0)
            if held > 0:
                other -= held
                yield f"{resident.spot[1]} has {_mib(held)} MiB there and {ask.objection(resident) or 'may go'}"
        for claim in ledger.claims:
            if claim.bytes_by_device.get(room.device, 0) > 0:
                yield f"a plan for {claim.model} counts on {_mib(claim.bytes_by_device[room.device])} MiB there"
        if other > 0:
            yield f"{_mib(other)} MiB there belong to other programs"


def _mib(bytes_: int) -> int:
    return -(-bytes_ // (1 << 20))
