"""Owns what is true on one simulated node: its devices, the replicas in their memory, and whether it is there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cortex.core.errors import CortexError, ModelNotReady, NoFeasibleNode, ShuttingDown, UpstreamFailed
from cortex.core.quantities import bytes_of
from cortex.fleet.devices import Room
from cortex.fleet.fit import check_fit
from cortex.fleet.view import NodeView, ReplicaView
from cortex.sim.description import Behaviour, Machine
from cortex.sim.errors import SimulationError
from cortex.sim.slots import Slots
from cortex.sim.visit import Visit

# Reading at this rate, in bytes for each `load_gb_per_second`.
GIGABYTE = 1_000_000_000


@dataclass(eq=False, slots=True)
class Replica:
    """A model in the memory of some devices. `cached` has the tokens of sessions that it knows, the oldest first."""

    model: str
    behaviour: Behaviour
    bytes_by_device: Mapping[int, int]
    speed: float
    load_seconds: float
    slots: Slots[Visit]
    state: Literal["loading", "ready", "draining"] = "loading"
    last_ended: float = 0.0
    ready_since: float = 0.0
    cached: OrderedDict[str, int] = field(default_factory=OrderedDict)
    wakes_at: float = float("inf")

    @property
    def is_restless(self) -> bool:
        """Whether it looks otherwise at each look: its node says of one at work that it is used right now."""
        return self.state != "ready" or bool(self.slots.requests)

    def cached_tokens(self, visit: Visit) -> int:
        """Return how many tokens of its prompt need no reading."""
        arrival = visit.arrival
        known = self.cached.get(arrival.session, 0) if arrival.session is not None else 0
        return max(0, min(known, arrival.prompt_tokens - 1))

    def remember(self, visit: Visit) -> None:
        """Keep what *visit* left in the cache."""
        session, behaviour = visit.arrival.session, self.behaviour
        if session is None:
            return
        self.cached[session] = visit.arrival.prompt_tokens + visit.arrival.completion_tokens
        self.cached.move_to_end(session)
        room = behaviour.slots if behaviour.cached_sessions is None else behaviour.cached_sessions
        while len(self.cached) > room:
            self.cached.popitem(last=False)

    def view(self, node: str, now: float) -> ReplicaView:
        """Return it as its node describes it."""
        busy = len(self.slots.requests)
        return ReplicaView(
            model=self.model,
            node=node,
            state=self.state,
            slots=self.slots.count,
            in_flight=busy,
            bytes_by_device=self.bytes_by_device,
            is_reserved=self.state == "loading",
            simulated=True,
            load_seconds=None if self.state == "loading" else self.load_seconds,
            last_used=now if self.is_restless else self.last_ended,
            ready_since=self.ready_since,
        )


class Node:
    """A machine of the fleet. `is_up` is the truth; what the gateway thinks of it lags behind."""

    def __init__(self, machine: Machine, engines: tuple[str, ...]) -> None:
        self.name, self.machine, self._engines = machine.name, machine, engines
        devices = [device for device in machine.devices for _ in range(device.count)]
        self._speeds = [device.speed for device in devices]
        self._totals = [Room(i, d.kind, d.name, 0, i, bytes_of(d.memory)) for i, d in enumerate(devices)]
        self.replicas: dict[str, Replica] = {}
        self.is_up, self.is_leaving, self.boots = True, False, 1

    # memory -----------------------------------------------------------------------------------------------------------

    def rooms(self) -> tuple[Room, ...]:
        """Return the devices with what is free on them. Raises SimulationError if there is less than nothing."""
        held = self.held_bytes()
        rooms = tuple(
            Room(r.index, r.kind, r.name, r.total_bytes - held[r.index], r.ordinal, r.total_bytes) for r in self._totals
        )
        over = next((room for room in rooms if room.free_bytes < 0), None)
        if over is not None:
            raise SimulationError(f"{self.name}: device {over.index} holds {-over.free_bytes} bytes more than it has")
        return rooms

    def held_bytes(self) -> list[int]:
        """Return the bytes that replicas hold, or have set aside, on each device."""
        held = [0] * len(self._totals)
        for replica in self.replicas.values():
            for index, bytes_ in replica.bytes_by_device.items():
                held[index] += bytes_
        return held

    # replicas ---------------------------------------------------------------------------------------------------------

    def refusal(self) -> CortexError | None:
        """Return why it takes neither requests nor loads now, or None."""
        if not self.is_up:
            return UpstreamFailed(f"{self.name} refused the connection")
        return ShuttingDown(f"{self.name} is shutting down") if self.is_leaving else None

    def begin_load(self, model: str, behaviour: Behaviour, devices: Sequence[int], now: float) -> Replica:
        """Set memory aside for *model* and return what loads.

        Raises InsufficientMemory, and whatever else the node would refuse a load with.
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        if model in self.replicas:
            raise ModelNotReady(f"{model} is {self.replicas[model].state} on {self.name}")
        if not devices or not set(devices) <= set(range(len(self._totals))):
            raise NoFeasibleNode(f"{self.name} has no devices {list(devices)}")
        share = -(-behaviour.memory_bytes // len(devices))
        needed = dict.fromkeys(devices, share)
        rooms = self.rooms()
        check_fit(model, needed, [rooms[index] for index in devices])
        seconds = behaviour.load_seconds
        if seconds is None:
            seconds = behaviour.memory_bytes / (self.machine.load_gb_per_second * GIGABYTE)
        replica = self.replicas[model] = Replica(
            model,
            behaviour,
            needed,
            # A model that is split waits for the slowest of its devices.
            speed=min(self._speeds[index] for index in devices),
            load_seconds=seconds,
            slots=Slots(behaviour.slots, behaviour.slowdown, now),
        )
        return replica

    def remove(self, replica: Replica) -> None:
        """Give the memory of *replica* back. Raises SimulationError if it has requests under way."""
        if replica.slots.requests:
            raise SimulationError(f"{self.name}: {replica.model} was killed with requests under way")
        del self.replicas[replica.model]

    def fall(self) -> list[Replica]:
        """Lose everything; return what there was."""
        lost = list(self.replicas.values())
        self.replicas = {}
        self.is_up = self.is_leaving = False
        return lost

    def rise(self) -> None:
        """Start anew, empty."""
        self.is_up, self.is_leaving = True, False
        self.boots += 1

    # what it says -----------------------------------------------------------------------------------------------------

    @property
    def is_restless(self) -> bool:
        """Whether the next look at it would show something else even if nothing happened."""
        return any(replica.is_restless for replica in self.replicas.values())

    @property
    def busy(self) -> int:
        """How many requests it has under way."""
        return sum(len(replica.slots.requests) for replica in self.replicas.values())

    def view(self, now: float, *, drained: bool) -> NodeView:
        """Return what it says of itself."""
        return NodeView(
            name=self.name,
            endpoint=f"http://{self.name}",
            healthy=not self.is_leaving,
            reason="is shutting down" if self.is_leaving else "",
            leaving=self.is_leaving,
            drained=drained,
            boot_id=f"{self.name}:{self.boots}",
            engines=self._engines,
            rooms=self.rooms(),
            replicas=tuple(replica.view(self.name, now) for replica in self.replicas.values()),
            seen_at=now,
        )
