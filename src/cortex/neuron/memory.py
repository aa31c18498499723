"""The memory of this node's devices as loads may count on it: what was read, less what loads in progress have reserved.

A reservation is made without awaiting anything after the check that it fits, so two loads never count the same bytes.
Each load has one claim, named by its owner, from its reservation until its process is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import msgspec

from cortex.core.errors import InsufficientMemory
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room, Wish, choose_devices
from cortex.fleet.fit import check_fit
from cortex.neuron.needs import Need
from cortex.neuron.readings import ProcessMemory
from cortex.wire.node_api import DeviceHealth, Discovery

log = get_logger(__name__)

# A driver that hangs must not hold up what does not need it; the reading before it counts until it comes back.
REFRESH_SECONDS = 10.0
# A driver gives the memory of an ended process back a little later, and not to the byte.
FREED_SECONDS, FREED_RETRY_SECONDS = 10.0, 0.25
FREED_SHARE = 0.9
NOTHING_NEEDED = Need({}, "unknown")


class Readings(Protocol):
    """What is needed here of `neuron.readings`."""

    def devices(self) -> Sequence[DeviceHealth]:
        """Return the last reading of each device."""
        ...

    async def refresh(self) -> None:
        """Read all devices now."""
        ...

    def watch(self, pid: int) -> None:
        """Begin to measure the process *pid*."""
        ...

    def unwatch(self, pid: int) -> None:
        """Stop measuring it."""
        ...

    def memory_of(self, pid: int) -> int | None:
        """Return its memory in bytes at the last reading."""
        ...

    def usage_of(self, pid: int) -> ProcessMemory | None:
        """Return the same by device; one that does not tell is absent."""
        ...

    def peak_of(self, pid: int) -> Mapping[int, int]:
        """Return the most it held at any reading, by device."""
        ...

    def declare(self, index: int, owner: str, bytes_: int) -> None:
        """Count *bytes_* as used on a device."""
        ...

    def release(self, owner: str) -> None:
        """Take back what *owner* declared."""
        ...


@dataclass(slots=True)
class _Claim:
    """What the process *pid* was let in with on *devices*; it takes more and more of it while it loads."""

    pid: int
    devices: tuple[int, ...]
    need: Need
    is_loading: bool = True
    declared: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """The memory of one replica in bytes by device, as it stands now; empty without a reservation.

    *held* is measured, else declared, else, once it is loaded, what was reserved; *peak* is never the last of these.
    """

    devices: tuple[int, ...] = ()
    need: Need = NOTHING_NEEDED
    held: Mapping[int, int] = field(default_factory=dict)
    peak: Mapping[int, int] = field(default_factory=dict)
    reserved: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_reserved(self) -> bool:
        """Whether there is a reservation, or was one that became what is held."""
        return bool(self.devices)


class Memory:
    """Owns the claims."""

    def __init__(self, discovery: Discovery, readings: Readings) -> None:
        self._discovery, self._readings = discovery, readings
        self._claims: dict[str, _Claim] = {}

    async def refresh(self) -> None:
        """Read all devices now, within a bound."""
        with anyio.move_on_after(REFRESH_SECONDS) as bound:
            await self._readings.refresh()
        if bound.cancelled_caught:
            log.warning("readings_hang", waited_seconds=REFRESH_SECONDS)

    def choose(self, spec: ModelSpec, wish: Wish) -> tuple[Room, ...]:
        """Return the devices that *spec* goes on now. Raises NoFeasibleNode."""
        kinds = self._discovery.engine_devices.get(spec.engine_name, ())
        floor = spec.device_floor_bytes
        return choose_devices(spec.engine_name, self.rooms(), wish, kinds=kinds, floor_bytes=floor)

    def lack(self, model: str, need: Need) -> InsufficientMemory | None:
        """Return what refuses *need* now, saying what is missing on each device; None if it fits."""
        try:
            check_fit(model, need.by_device, [room for room in self.rooms() if room.index in need.by_device])
        except InsufficientMemory as error:
            return error
        return None

    def reserve(self, owner: str, model: str, devices: Sequence[int], need: Need, pid: int) -> None:
        """Set *need* aside on *devices* and begin to measure *pid*. Raises InsufficientMemory."""
        if (lack := self.lack(model, need)) is not None:
            raise lack
        self._claims[owner] = _Claim(pid, tuple(devices), need)
        self._readings.watch(pid)

    def settle(self, owner: str, declared: Mapping[int, int]) -> None:
        """Turn the reservation of *owner* into what is in use, which for a simulated model is only declared."""
        for index, bytes_ in declared.items():
            self._readings.declare(index, owner, bytes_)
        claim = self._claims[owner]
        claim.is_loading, claim.declared = False, declared

    def release(self, owner: str, pid: int | None) -> None:
        """Forget *owner* and its process."""
        self._claims.pop(owner, None)
        self._readings.release(owner)
        if pid is not None:
            self._readings.unwatch(pid)

    def account(self, owner: str) -> Account:
        """Return what *owner* has; nothing if it has no claim."""
        claim = self._claims.get(owner)
        if claim is None:
            return Account()
        measured, peak = self._measured(claim), self._readings.peak_of(claim.pid)
        held = measured if claim.is_loading else {**claim.need.by_device, **measured}
        return Account(
            devices=claim.devices,
            need=claim.need,
            held=held,
            peak=claim.declared or {index: peak[index] for index in claim.devices if index in peak},
            reserved=self._outstanding(claim),
        )

    def of_process(self, pid: int) -> int | None:
        """Return the memory of the process *pid* at the last reading, in bytes."""
        return self._readings.memory_of(pid)

    def devices(self) -> list[DeviceHealth]:
        """Return the last reading of each device, with what loads in progress have still to take there."""
        reserved = self._reserved()
        return [
            msgspec.structs.replace(device, memory_reserved_bytes=reserved.get(device.index, 0))
            for device in self._readings.devices()
        ]

    def rooms(self) -> list[Room]:
        """Return every device with what is free on it now."""
        free, reserved = self._free(), self._reserved()
        return [
            Room(
                d.index,
                d.kind,
                d.name,
                free.get(d.index, 0) - reserved.get(d.index, 0),
                d.ordinal,
                d.memory_total_bytes,
            )
            for d in self._discovery.devices
        ]

    def levels_without(self, owner: str) -> dict[int, int]:
        """Return the level that each device of *owner* rises to when what it holds there is back; see `freed`.

        The level is what is free and what other claims hold, so a load beside does not hide that memory came back. The
        CPU is left out: its memory is back with the process.
        """
        claim = self._claims.get(owner)
        if claim is None:
            return {}
        cpus = {device.index for device in self._discovery.devices if device.kind == "cpu"}
        held = {index: bytes_ for index, bytes_ in self._measured(claim).items() if index not in cpus}
        levels = self._levels(owner)
        return {index: levels.get(index, 0) + round(FREED_SHARE * bytes_) for index, bytes_ in held.items()}

    async def freed(self, model: str, levels: Mapping[int, int]) -> None:
        """Read until every device has come up to its level, within a bound; say so if one did not."""
        await self.refresh()
        with anyio.move_on_after(FREED_SECONDS):
            while self._below(levels):
                await anyio.sleep(FREED_RETRY_SECONDS)
                await self.refresh()
        if missing := self._below(levels):
            log.warning("memory_not_back", model=model, missing_bytes=missing, waited_seconds=FREED_SECONDS)

    def _below(self, levels: Mapping[int, int]) -> dict[int, int]:
        now = self._levels()
        return {index: level - now.get(index, 0) for index, level in levels.items() if now.get(index, 0) < level}

    def _levels(self, without: str | None = None) -> dict[int, int]:
        levels = self._free()
        for owner, claim in self._claims.items():
            for index, bytes_ in self._measured(claim).items() if owner != without else ():
                levels[index] = levels.get(index, 0) + bytes_
        return levels

    def _free(self) -> dict[int, int]:
        return {device.index: device.memory_free_bytes for device in self._readings.devices()}

    def _measured(self, claim: _Claim) -> Mapping[int, int]:
        """Return what *claim* holds on its devices as they tell; a simulated one holds what it declared."""
        usage = self._readings.usage_of(claim.pid)
        if claim.declared or usage is None:
            return claim.declared
        return {index: usage.bytes_by_device[index] for index in claim.devices if index in usage.bytes_by_device}

    def _reserved(self) -> dict[int, int]:
        reserved: dict[int, int] = {}
        for claim in self._claims.values():
            for index, bytes_ in self._outstanding(claim).items():
                reserved[index] = reserved.get(index, 0) + bytes_
        return reserved

    def _outstanding(self, claim: _Claim) -> dict[int, int]:
        """Return what a load has still to take: what it took already is in the readings. None once it is loaded.

        Where a device does not tell what a process holds, all of it counts: too much for a while, never too little.
        """
        if not claim.is_loading:
            return {}
        taken = self._measured(claim)
        return {index: max(0, bytes_ - taken.get(index, 0)) for index, bytes_ in claim.need.by_device.items()}
