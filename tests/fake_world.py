"""Machines that exist only in figures, and a reconciler in charge of them: its orders are carried out when a test says.

A machine knows the truth; the reconciler knows what it was last shown. Sizes are in whole GiB, and each device has the
floor on top of its size, so that a device of 8 holds models of 5 and 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cortex.core.errors import CortexError, InsufficientMemory, UpstreamFailed
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.doors import Ticket
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.plan import Plan
from cortex.fleet.reconciler import Reconciler
from cortex.fleet.route import Choice
from cortex.fleet.situation import Need, Policy
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot
from cortex.fleet.work import Event
from cortex.wire.node_api import ReplicaState

GIB = 1 << 30
START = 1000.0
TICK_SECONDS = 0.5
# What carries out more orders than this at one moment never ends.
MAX_ORDERS = 500

OrderKind = Literal["load", "unload", "look", "estimate"]


def model(name: str, gib: int = 1, **changed: Any) -> ModelSpec:
    """Return the spec of a model that takes *gib*."""
    return ModelSpec(id=name, vram_mb=gib << 10, **changed)


@dataclass
class Held:
    """A replica as its machine has it; `others` are requests of somebody else's."""

    bytes_by_device: Mapping[int, int]
    state: ReplicaState = "ready"
    others: int = 0
    last_used: float = START


@dataclass
class Machine:
    """A node's truth: one or more devices, what is on them, and what has not come back yet after an unload."""

    name: str
    gib: tuple[int, ...] = (8,)
    slots: int = 1
    boot: int = 1
    alive: bool = True
    leaving: bool = False
    drained: bool = False
    gives_back: bool = True
    held: dict[str, Held] = field(default_factory=dict)
    returning: Counter[int] = field(default_factory=Counter)
    strangers: Counter[int] = field(default_factory=Counter)

    def free_bytes(self, device: int) -> int:
        """What is free on *device* in truth, the floor included."""
        taken = sum(held.bytes_by_device.get(device, 0) for held in self.held.values() if held.state != "failed")
        return self.gib[device] * GIB + FLOOR_BYTES - taken - self.returning[device] - self.strangers[device]

    def holds(self, needed: Mapping[int, int]) -> bool:
        """Whether *needed* fits beside everything, the floor left free."""
        return all(bytes_ <= self.free_bytes(device) - FLOOR_BYTES for device, bytes_ in needed.items())

    def view(self, now: float, flights: Mapping[Spot, int]) -> NodeView:
        """Return what the machine says of itself, or that it says nothing."""
        healthy = self.alive and not self.leaving
        return NodeView(
            self.name,
            f"http://{self.name}:13131",
            healthy,
            reason="" if healthy else "is shutting down" if self.leaving else "does not answer",
            leaving=self.leaving,
            drained=self.drained,
            boot_id=f"boot-{self.boot}",
            engines=("llamacpp",),
            rooms=tuple(self._room(device) for device in range(len(self.gib))) if self.alive else (),
            replicas=tuple(self._replica(name, flights) for name in self.held) if self.alive else (),
            seen_at=now,
        )

    def _room(self, device: int) -> Room:
        total = self.gib[device] * GIB + FLOOR_BYTES
        return Room(device, "cuda", f"gpu{device}", max(0, self.free_bytes(device)), device, total)

    def _replica(self, name: str, flights: Mapping[Spot, int]) -> ReplicaView:
        held = self.held[name]
        return ReplicaView(
            name,
            self.name,
            held.state,
            slots=self.slots,
            in_flight=flights.get((self.name, name), 0) + held.others,
            bytes_by_device=held.bytes_by_device,
            is_reserved=held.state == "loading",
            last_used=held.last_used,
        )


@dataclass(eq=False)
class Order:
    """Something the reconciler wants done; `begun` once its machine has taken it on."""

    kind: OrderKind
    node: str
    spec: ModelSpec | None = None
    spot: Spot = ("", "")
    plan: Plan | None = None
    begun: bool = False


class World:
    """The reconciler's `Effects`, the machines, the clients, and the time, which passes only by `wait`.

    `silent` are nodes that once did not tell what a model takes, and so have it loaded blindly.
    """

    def __init__(self, *machines: Machine, models: Iterable[ModelSpec] = (), **policy: Any) -> None:
        self.now = START
        self.machines = {machine.name: machine for machine in machines}
        self.catalogue = {spec.id: spec for spec in models}
        self.orders: list[Order] = []
        self.events: list[Event] = []
        self.fates: dict[Ticket, Choice | CortexError] = {}
        self.left: set[Ticket] = set()
        self.flights: dict[Ticket, Spot] = {}
        self.silent: set[str] = set()
        self.reconciler = Reconciler(self, self.catalogue, Policy(**policy))
        self._view = FleetView()
        for machine in machines:
            self.show(machine.name)

    # effects ----------------------------------------------------------------------------------------------------------

    def serve(self, ticket: Ticket, choice: Choice) -> None:
        self._served(ticket, choice)

    def refuse(self, ticket: Ticket, error: CortexError) -> None:
        self._is_first_word_to(ticket)
        self.fates[ticket] = error

    def load(self, spec: ModelSpec, plan: Plan) -> None:
        """Take the order, if the memory for it is there in truth, beside what was ordered a moment ago."""
        needed = Counter(plan.bytes_by_device)
        for order in self.ordered("load", plan.node):
            if not order.begun and order.plan is not None:
                needed.update(order.plan.bytes_by_device)
        machine = self.machines[plan.node]
        is_alone = machine.alive and not machine.strangers.total()
        assert not is_alone or machine.holds(needed), f"{plan.model} was to be loaded on memory that is not free"
        self.orders.append(Order("load", plan.node, spec, (plan.node, spec.id), plan))

    def unload(self, spot: Spot) -> None:
        assert not any(order.spot == spot for order in self.ordered("unload")), f"{spot} is unloaded twice"
        self.orders.append(Order("unload", spot[0], spot=spot))

    def look(self, node: str) -> None:
        if not self.ordered("look", node):
            self.orders.append(Order("look", node))

    def estimate(self, spec: ModelSpec, node: str) -> None:
        self.orders.append(Order("estimate", node, spec))

    def note(self, event: Event) -> None:
        self.events.append(event)

    # clients ----------------------------------------------------------------------------------------------------------

    def ask(self, name: str, *, avoid: Iterable[str] = ()) -> Ticket:
        """Ask for the model called *name*."""
        ticket = Ticket(name, self.now, avoid=set(avoid))
        try:
            choice = self.reconciler.ask(ticket, self.now)
        except CortexError as error:
            self.refuse(ticket, error)
        else:
            if choice is not None:
                self._served(ticket, choice)
        return ticket

    def _served(self, ticket: Ticket, choice: Choice) -> None:
        self._is_first_word_to(ticket)
        assert choice.replica.node not in ticket.avoid
        assert choice.replica.spot not in {order.spot for order in self.ordered("unload")}, "served by what is leaving"
        self.fates[ticket] = choice
        self.flights[ticket] = choice.replica.spot

    def _is_first_word_to(self, ticket: Ticket) -> None:
        assert ticket not in self.fates, "told twice"
        assert ticket not in self.left, "told after it left"

    def finish(self, ticket: Ticket) -> None:
        """End the request of *ticket*, which was served."""
        spot = self.flights.pop(ticket)
        held = self.machines[spot[0]].held.get(spot[1]) if spot[0] in self.machines else None
        if held is not None:
            held.last_used = self.now
        self.reconciler.finished(spot, self.now)

    def leave(self, ticket: Ticket) -> None:
        """Have the client of *ticket* go away: while it waits, or while it is served."""
        if ticket in self.flights:
            self.finish(ticket)
        elif ticket not in self.fates:
            self.left.add(ticket)
            self.reconciler.leave(ticket)

    def served(self, ticket: Ticket) -> str | None:
        """Return the node that *ticket* was given, or None."""
        fate = self.fates.get(ticket)
        return fate.replica.node if isinstance(fate, Choice) else None

    def error(self, ticket: Ticket) -> CortexError:
        """Return what *ticket* was refused with."""
        fate = self.fates[ticket]
        assert isinstance(fate, CortexError)
        return fate

    def waiting(self) -> list[Ticket]:
        """Return all who wait, as the reconciler has it."""
        return [ticket for name in self.reconciler.doors.waiting_since() for ticket in self._waiting_for(name)]

    def _waiting_for(self, name: str) -> tuple[Ticket, ...]:
        return self.reconciler.doors.waiting(name)

    # machines ---------------------------------------------------------------------------------------------------------

    def put(self, node: str, name: str, gib: int = 0, **changed: Any) -> Held:
        """Have a replica of *name* on *node* by somebody else's doing, and show it."""
        size = gib * GIB or self.size(self.catalogue[name])
        held = self.machines[node].held[name] = Held({0: size}, **changed)
        self.show(node)
        return held

    @staticmethod
    def size(spec: ModelSpec) -> int:
        """The bytes that a model takes on one device."""
        return (spec.vram_mb or 0) << 20

    def show(self, node: str) -> None:
        """Have the reconciler see the machine called *node* as it is now, or that there is none."""
        if node in self.machines:
            self._view = self._view.with_node(self.machines[node].view(self.now, Counter(self.flights.values())))
        else:
            self._view = self._view.without_node(node)
        self.reconciler.view_changed(self._view, node, self.now)

    def add(self, machine: Machine) -> None:
        """Have one more machine."""
        self.machines[machine.name] = machine
        self.show(machine.name)

    def remove(self, node: str) -> None:
        """Take a machine out of the configuration: calls to it fail."""
        del self.machines[node]
        self.show(node)
        self._break_calls(node)

    def kill(self, node: str) -> None:
        """End a machine: what it held is gone, calls to it fail, and it is taken for dead."""
        machine = self.machines[node]
        machine.alive = False
        machine.held.clear()
        machine.returning.clear()
        self.show(node)
        self._break_calls(node)

    def _break_calls(self, node: str) -> None:
        for ticket in [ticket for ticket, spot in self.flights.items() if spot[0] == node]:
            self.finish(ticket)
        for order in [order for order in self.orders if order.node == node]:
            self.carry_out(order, UpstreamFailed(f"{node} was lost"))

    def revive(self, node: str) -> None:
        """Start a machine again, empty."""
        machine = self.machines[node]
        machine.alive, machine.leaving, machine.boot = True, False, machine.boot + 1
        self.show(node)

    def give_back(self, node: str) -> None:
        """Have the memory of what was unloaded come back at last, unseen as yet."""
        self.machines[node].returning.clear()

    def edit(self, *specs: ModelSpec) -> None:
        """Have another catalogue."""
        self.catalogue = {spec.id: spec for spec in specs}
        self.reconciler.catalogue_changed(self.catalogue, self.now)

    # orders -----------------------------------------------------------------------------------------------------------

    def ordered(self, kind: OrderKind, node: str | None = None) -> list[Order]:
        """Return the orders of one kind that are not carried out yet."""
        return [order for order in self.orders if order.kind == kind and node in (None, order.node)]

    def begin(self, order: Order) -> None:
        """Have a load taken on by its machine, which sets the memory aside, or an unload: it drains."""
        machine = self.machines.get(order.node)
        order.begun = True
        if machine is None or not machine.alive:
            return
        if order.kind == "load" and order.spec is not None and order.plan is not None:
            size = self.size(order.spec)
            needed = order.plan.bytes_by_device or {order.plan.devices[0]: size}
            if machine.holds(needed):
                machine.held[order.spec.id] = Held(needed, "loading", last_used=self.now)
        elif order.kind == "unload" and order.spot[1] in machine.held:
            machine.held[order.spot[1]].state = "draining"

    def carry_out(self, order: Order, error: CortexError | None = None) -> None:
        """End *order*, well or with *error*."""
        if not order.begun:
            self.begin(order)
        self.orders.remove(order)
        machine = self.machines.get(order.node)
        if machine is None or not machine.alive:
            error = error or UpstreamFailed(f"{order.node} was lost")
        getattr(self, f"_end_{order.kind}")(order, machine, error)

    def _end_load(self, order: Order, machine: Machine | None, error: CortexError | None) -> None:
        held = machine.held.get(order.spot[1]) if machine is not None else None
        if held is None or held.state != "loading":
            error = error or InsufficientMemory("there is no room")
        elif error is None:
            held.state, held.last_used = "ready", self.now
        elif machine is not None:
            del machine.held[order.spot[1]]
        self.reconciler.loaded(order.spot, error, self.now)

    def _end_unload(self, order: Order, machine: Machine | None, error: CortexError | None) -> None:
        held = machine.held.get(order.spot[1]) if machine is not None else None
        if held is not None and machine is not None:
            if error is not None:
                held.state = "ready"
            else:
                del machine.held[order.spot[1]]
                if not machine.gives_back:
                    machine.returning.update(held.bytes_by_device)
        self.reconciler.unloaded(order.spot, error, self.now)

    def _end_look(self, order: Order, machine: Machine | None, error: CortexError | None) -> None:
        if machine is not None and error is None:
            self.show(order.node)
        self.reconciler.looked(order.node, self.now)

    def _end_estimate(self, order: Order, machine: Machine | None, error: CortexError | None) -> None:
        assert order.spec is not None
        size = self.size(order.spec)
        if error is not None:
            self.silent.add(order.node)
        need = Need((size,), "declared") if size and error is None else Need((), "unknown")
        self.reconciler.estimated(order.spec, order.node, need, self.now)

    def can_end(self, order: Order) -> bool:
        """Whether *order* can end well now: an unload ends after the flights of its replica."""
        return order.kind != "unload" or order.spot not in self.flights.values()

    def settle(self, *kept: OrderKind) -> None:
        """Carry out orders, and what comes of them, until none is left but those of the kinds *kept*."""
        for _ in range(MAX_ORDERS):
            order = next((o for o in self.orders if o.kind not in kept and self.can_end(o)), None)
            if order is None:
                return
            self.carry_out(order)
        raise AssertionError(f"it goes round and round: {self.events[-5:]}")

    def wait(self, seconds: float, *kept: OrderKind) -> None:
        """Let time pass, tick by tick."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TICK_SECONDS)
            self.reconciler.tick(self.now)
            self.settle(*kept)

    @property
    def loaded(self) -> set[Spot]:
        """Every replica that is ready in truth."""
        return {
            (machine.name, name)
            for machine in self.machines.values()
            for name, held in machine.held.items()
            if held.state == "ready"
        }

    def told(self, *kinds: str) -> list[tuple[str, str, str]]:
        """Return the events of *kinds* so far, as kind, model and node."""
        return [(event.kind, event.model, event.node) for event in self.events if event.kind in kinds]
