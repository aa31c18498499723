"""The run loop under whatever happens, in whatever order: what must hold at every step, and what once all is quiet."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cortex.core.errors import (
    CortexError,
    EngineFailed,
    InsufficientMemory,
    LoadFailed,
    NoFeasibleNode,
    ShuttingDown,
    UpstreamFailed,
)
from cortex.core.model_spec import ModelSpec
from cortex.fleet.carrier import CONFIRM_SECONDS, SETTLE_SECONDS
from cortex.fleet.doors import Ticket
from cortex.fleet.evict import rank_of
from cortex.fleet.upkeep import CHORE_PAUSE_SECONDS
from fake_world import GIB, Machine, Order, OrderKind, World, model

NODES, MODELS = "abc", "pqrs"
QUIET_SECONDS = int(CHORE_PAUSE_SECONDS + SETTLE_SECONDS + CONFIRM_SECONDS) * 2

LOAD_ERRORS = (LoadFailed, InsufficientMemory, UpstreamFailed, ShuttingDown, NoFeasibleNode, EngineFailed)

machines = st.builds(
    Machine,
    st.just(""),
    st.sampled_from([(8,), (6,), (4, 4)]),
    slots=st.integers(1, 2),
)
specs = st.builds(
    lambda gib, resident, extra, **changed: model(
        "m", gib, min_resident=resident, max_replicas=max(1, resident + extra), **changed
    ),
    st.integers(0, 7),
    st.sampled_from([0, 0, 0, 1]),
    st.integers(0, 2),
    pinned=st.sampled_from([False, False, False, True]),
    priority=st.sampled_from([100, 100, 50, 150]),
    ttl=st.sampled_from([None, None, 20]),
    nodes=st.sampled_from([(), (), (), ("a", "b")]),
)
at = st.integers(0, 1000)


class AnyOrder(RuleBasedStateMachine):
    """Clients, nodes, an operator and the network; each rule is one thing that one of them does."""

    world: World
    asked: list[Ticket]
    disturbed: set[str]

    @initialize(
        there=st.lists(machines, min_size=1, max_size=3),
        catalogue=st.lists(specs, min_size=2, max_size=4),
        loaded=st.lists(st.sampled_from(MODELS)),
        strategy=st.sampled_from(["lru", "priority"]),
        defrag=st.sampled_from([0, 2]),
    )
    def begin(
        self, there: list[Machine], catalogue: list[ModelSpec], loaded: list[str], strategy: str, defrag: int
    ) -> None:
        for name, machine in zip(NODES, there, strict=False):
            machine.name = name
        self.asked, self.disturbed = [], set()
        self.world = World(
            *there,
            models=[_named(name, spec) for name, spec in zip(MODELS, catalogue, strict=False)],
            strategy=strategy,
            queue_seconds=1e6,
            queue_depth=1000,
            restore_after=20.0,
            defrag_after_cycles=defrag,
        )
        self.asked += [self.world.ask(name) for name in loaded]
        self.world.settle()
        self._end_all_flights()

    # clients

    @rule(names=st.lists(st.sampled_from(MODELS), min_size=1, max_size=3), avoid=st.sampled_from(["", "", "a", "ab"]))
    def ask(self, names: list[str], avoid: str) -> None:
        self._moment()
        self.asked += [self.world.ask(name, avoid=avoid if at else "") for at, name in enumerate(names)]

    @precondition(lambda self: self.asked)
    @rule(at=at)
    def leave(self, at: int) -> None:
        self._moment()
        ticket = _pick(self.asked, at)
        if ticket not in self.world.left:
            self.world.leave(ticket)

    @precondition(lambda self: self.world.flights)
    @rule(at=at)
    def finish(self, at: int) -> None:
        self._moment()
        self.world.finish(_pick(list(self.world.flights), at))

    # the network and the nodes' answers

    @precondition(lambda self: self.world.orders)
    @rule(at=at)
    def begin_and_show(self, at: int) -> None:
        self._moment()
        order = _pick(self.world.orders, at)
        if not order.begun:
            self.world.begin(order)
        self.world.show(order.node)

    @precondition(lambda self: self.world.orders)
    @rule(at=at)
    def carry_out(self, at: int) -> None:
        self._moment()
        self._carry_out(_pick(self.world.orders, at), None)

    @precondition(lambda self: self.world.orders)
    @rule(kept=st.sampled_from([("load",), ("unload",), ("look", "unload"), ("load", "unload"), ()]))
    def carry_out_all(self, kept: tuple[OrderKind, ...]) -> None:
        self._moment()
        self.world.settle(*kept)

    @precondition(lambda self: self.world.orders)
    @rule(at=at, error=st.sampled_from(LOAD_ERRORS))
    def fail(self, at: int, error: type[CortexError]) -> None:
        self._moment()
        self._carry_out(_pick(self.world.orders, at), error("it went wrong"))

    def _carry_out(self, order: Order, error: CortexError | None) -> None:
        if error is not None and order.kind == "unload":
            self.disturbed.add(order.node)  # what was to go stays, and the plan for its memory is dropped after a while
        if error is not None or self.world.can_end(order):
            self.world.carry_out(order, error)

    # the operator and fate

    @precondition(lambda self: self.world.machines)
    @rule(at=at, what=st.sampled_from(["die", "say goodbye", "leave service"]))
    def turn_off_or_on(self, at: int, what: str) -> None:
        self._moment()
        machine = self._machine(at)
        if not machine.alive or machine.leaving:
            self.world.revive(machine.name)
        elif what == "die":
            self.world.kill(machine.name)
        else:
            machine.leaving = what == "say goodbye"
            machine.drained = not machine.drained and what == "leave service"
            self.world.show(machine.name)

    @rule(name=st.sampled_from(NODES), machine=machines)
    def add_or_remove(self, name: str, machine: Machine) -> None:
        self._moment()
        if name in self.world.machines:
            self.world.remove(name)
        else:
            machine.name = name
            self.world.add(machine)
            self.disturbed.add(name)  # a plan for its namesake may be in progress, and comes to nothing

    @rule(name=st.sampled_from(MODELS), spec=st.none() | specs)
    def edit(self, name: str, spec: ModelSpec | None) -> None:
        self._moment()
        catalogue = {**self.world.catalogue}
        catalogue.pop(name, None)
        if spec is not None:
            catalogue[name] = _named(name, spec)
        self.world.edit(*catalogue.values())

    # others who use the same machines

    @precondition(lambda self: self.world.machines)
    @rule(at=at, gib=st.integers(0, 4))
    def intrude(self, at: int, gib: int) -> None:
        machine = self._machine(at)
        room = machine.free_bytes(0) + machine.strangers[0]
        machine.strangers[0] = min(gib * GIB, room) if machine.alive else 0
        machine.gives_back = not machine.gives_back
        machine.returning.clear()
        self.disturbed.add(machine.name)

    @precondition(lambda self: self.world.loaded)
    @rule(at=at, others=st.integers(0, 1))
    def use(self, at: int, others: int) -> None:
        node, name = _pick(sorted(self.world.loaded), at)
        self.world.machines[node].held[name].others = others

    @rule(seconds=st.sampled_from([0.5, 0.5, 3.0, 12.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.reconciler.tick(self.world.now)

    def _moment(self) -> None:
        self.world.now += 0.001

    def _machine(self, at: int) -> Machine:
        return self.world.machines[_pick(sorted(self.world.machines), at)]

    # what must hold at every step

    @invariant()
    def flights_are_those_of_the_clients(self) -> None:
        assert self.world.reconciler.doors.flights == Counter(self.world.flights.values())

    @invariant()
    def everyone_waits_or_was_told_or_left(self) -> None:
        told = {*self.world.fates, *self.world.left}
        assert set(self.world.waiting()) == {ticket for ticket in self.asked if ticket not in told}

    @invariant()
    def whoever_waits_is_seen_to(self) -> None:
        """Some replica could serve it once it has a slot, or a job is to get it one, or will be when one has gone."""
        loop = self.world.reconciler
        going = {name for _, name in loop.situation(self.world.now).leaving}
        for ticket in self.world.waiting():
            usable = any(ticket.can_use(replica) for replica in loop.ready(ticket.model))
            assert usable or ticket.model in going or loop.job(ticket.model) is not None

    @invariant()
    def a_job_has_a_plan_or_a_reason(self) -> None:
        for name in MODELS:
            job = self.world.reconciler.job(name)
            assert job is None or job.work is not None or job.held

    @invariant()
    def a_plan_waits_for_something(self) -> None:
        loads = {order.spot for order in self.world.ordered("load")}
        unloads = {order.spot for order in self.world.ordered("unload")}
        for name in MODELS:
            job = self.world.reconciler.job(name)
            if job is None or job.work is None:
                continue
            work = job.work
            assert (work.phase == "loading") == (work.spot in loads)
            assert work.pending <= unloads
            assert (work.phase == "unloading") == bool(work.pending)

    @invariant()
    def no_device_is_promised_twice(self) -> None:
        moment = self.world.reconciler.situation(self.world.now)
        for machine in self.world.machines.values():
            if machine.name in self.disturbed | self.world.silent or not machine.alive:
                continue
            promised: Counter[int] = Counter()
            for claim in moment.commitments.get(machine.name, ()):
                if claim.model not in machine.held or (machine.name, claim.model) in moment.leaving:
                    promised.update(claim.bytes_by_device)
            for name, held in machine.held.items():
                if (machine.name, name) not in moment.leaving and held.state != "failed":
                    promised.update(held.bytes_by_device)
            assert all(bytes_ <= machine.gib[device] * GIB for device, bytes_ in promised.items())

    # what must hold once all is quiet

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for machine in list(self.world.machines.values()):
            machine.strangers.clear()
            machine.returning.clear()
            machine.drained, machine.gives_back = False, True
            for held in machine.held.values():
                held.others = 0
            if not machine.alive or machine.leaving:
                self.world.revive(machine.name)
            self.world.show(machine.name)
        self._quiet()
        self._serves_what_could_be_served()

    def _end_all_flights(self) -> None:
        for ticket in list(self.world.flights):
            self.world.finish(ticket)

    def _quiet(self) -> None:
        for _ in range(QUIET_SECONDS):
            self.world.wait(1)
            self._end_all_flights()
        self.world.settle()
        moment = self.world.reconciler.situation(self.world.now)

        assert self.world.waiting() == []
        assert moment.flights == {}
        assert set(moment.leaving) == set()
        assert [name for name in MODELS if self.world.reconciler.job(name) is not None] == []
        assert moment.commitments == {}

    def _serves_what_could_be_served(self) -> None:
        for spec in self.world.catalogue.values():
            ticket = self.world.ask(spec.id)
            self.world.settle()
            if self.world.served(ticket) is not None:
                self.world.finish(ticket)
            else:
                assert not self._could_serve(spec), f"{spec.id} was not served: {self.world.fates.get(ticket)}"
                assert isinstance(self.world.error(ticket), CortexError)

    def _could_serve(self, spec: ModelSpec) -> bool:
        """Whether a node has the memory, were it not for what may be displaced."""
        allowed = [m for m in self.world.machines.values() if not spec.nodes or m.name in spec.nodes]
        return any(self._has_room(machine, spec) for machine in allowed)

    def _has_room(self, machine: Machine, spec: ModelSpec) -> bool:
        """Whether *machine* has it on as few devices as it can be split over there."""
        size = self.world.size(spec)
        count = 1 if size <= max(machine.gib) * GIB else len(machine.gib)
        usable = [self._usable(machine, device, spec) for device in range(len(machine.gib))]
        return sum(bytes_ * count >= size for bytes_ in usable) >= count

    def _usable(self, machine: Machine, device: int, spec: ModelSpec) -> int:
        stays = [
            held.bytes_by_device.get(device, 0)
            for name, held in machine.held.items()
            if rank_of(name, self.world.catalogue) > spec.priority or self._is_pinned(name)
        ]
        return machine.gib[device] * GIB - sum(stays)

    def _is_pinned(self, name: str) -> bool:
        return name in self.world.catalogue and self.world.catalogue[name].pinned


def _named(name: str, spec: ModelSpec) -> ModelSpec:
    return ModelSpec(**{**{f: getattr(spec, f) for f in spec.__struct_fields__}, "id": name})


def _pick(among: list[Any], at: int) -> Any:
    return among[at % len(among)]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
