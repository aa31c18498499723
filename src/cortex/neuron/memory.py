"""The memory of this node's devices as loads may count on it: what was read, less what loads in progress have reserved.

A reservation is made without awaiting anything after the check that it fits, so two loads never count the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio

from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import Room, Wish, check_fit, choose_devices
from cortex.wire.node_api import DeviceHealth, Discovery

log = get_logger(__name__)

# A driver that hangs must not hold up what does not need it; the reading before it counts until it comes back.
REFRESH_SECONDS = 10.0


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

    def declare(self, index: int, owner: str, bytes_: int) -> None:
        """Count *bytes_* as used on a device."""
        ...

    def release(self, owner: str) -> None:
        """Take back what *owner* declared."""
        ...


@dataclass(frozen=True, slots=True)
class _Reservation:
    """Bytes by device for the process *pid*, of which it takes more and more while it loads."""

    needed: Mapping[int, int]
    pid: int


class Memory:
    """Owns the reservations."""

    def __init__(self, discovery: Discovery, readings: Readings) -> None:
        self._discovery, self._readings = discovery, readings
        self._reserved: dict[str, _Reservation] = {}

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

    def reserve(self, owner: str, model: str, needed: Mapping[int, int], pid: int) -> None:
        """Set *needed* bytes aside and begin to measure *pid*. Raises InsufficientMemory."""
        check_fit(model, needed, [room for room in self.rooms() if room.index in needed])
        self._reserved[owner] = _Reservation(needed, pid)
        self._readings.watch(pid)

    def settle(self, owner: str, declared: Mapping[int, int]) -> None:
        """Turn the reservation of *owner* into what is in use, which for a simulated model is only declared."""
        for index, bytes_ in declared.items():
            self._readings.declare(index, owner, bytes_)
        self._reserved.pop(owner, None)

    def release(self, owner: str, pid: int | None) -> None:
        """Forget *owner* and its process."""
        self._reserved.pop(owner, None)
        self._readings.release(owner)
        if pid is not None:
            self._readings.unwatch(pid)

    def of_process(self, pid: int) -> int | None:
        """Return the memory of the process *pid* at the last reading, in bytes."""
        return self._readings.memory_of(pid)

    def rooms(self) -> list[Room]:
        """Return every device with what is free on it now."""
        free = {device.index: device.memory_free_bytes for device in self._readings.devices()}
        held: dict[int, int] = {}
        for reservation in self._reserved.values():
            for index, bytes_ in self._outstanding(reservation).items():
                held[index] = held.get(index, 0) + bytes_
        return [
            Room(d.index, d.kind, d.name, free.get(d.index, 0) - held.get(d.index, 0), d.ordinal, d.memory_total_bytes)
            for d in self._discovery.devices
        ]

    def _outstanding(self, reservation: _Reservation) -> dict[int, int]:
        """Return what a load has still to take: what it took already is in the readings."""
        taken, total = self._readings.memory_of(reservation.pid) or 0, sum(reservation.needed.values())
        left = max(0.0, 1.0 - taken / total) if total else 0.0
        return {index: round(bytes_ * left) for index, bytes_ in reservation.needed.items()}
