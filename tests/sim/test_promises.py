"""Whatever fleet and trace: the world itself raises SimulationError if the decisions break a promise."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.core.quantities import bytes_of
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.work import Event
from cortex.sim.description import Fleet
from cortex.sim.tally import Tally
from cortex.sim.trace import Arrival
from cortex.sim.world import World

from .fleets import fleets, traces

small = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Witness(Tally):
    """A tally that keeps the events."""

    def __init__(self, fleet: Fleet, policy: str) -> None:
        super().__init__(fleet, policy)
        self.events: list[Event] = []

    def note(self, event: Event) -> None:
        super().note(event)
        self.events.append(event)


def simulated(fleet: Fleet, trace: list[Arrival]) -> tuple[World, Witness]:
    witness = Witness(fleet, "test")
    world = World(fleet, fleet.policy, witness)
    world.run(trace)
    return world, witness


@st.composite
def cases(
    draw: st.DrawFn, *, outages: bool = True, honest: bool = False, equal: bool = False
) -> tuple[Fleet, list[Arrival]]:
    fleet = draw(fleets(outages=outages, honest=honest, equal=equal))
    return fleet, draw(traces(list(fleet.catalogue)))


def fits_somewhere(model: str, fleet: Fleet) -> bool:
    """Whether some node could hold *model* if it were empty: in equal shares, on as many devices as that takes."""
    needed = fleet.behaviours[model].memory_bytes
    for node in fleet.machines:
        sizes = sorted((bytes_of(device.memory) - FLOOR_BYTES for device in node.devices), reverse=True)
        if any(sizes[count - 1] >= -(-needed // count) for count in range(1, len(sizes) + 1)):
            return True
    return False


@given(case=cases())
@small
def test_each_request_is_answered_refused_or_cut_short_by_an_outage(case: tuple[Fleet, list[Arrival]]) -> None:
    """None is lost and none is told twice, whatever falls, fails to load or takes more than was said."""
    fleet, trace = case
    world, witness = simulated(fleet, trace)

    report = witness.report(world.agenda.now, world.agenda.steps, complete=True)
    assert report.requests == len(trace)
    assert report.answered + sum(report.refused.values()) + report.broken == len(trace)


@given(case=cases(outages=False, honest=True))
@small
def test_a_quiet_fleet_never_refuses_a_load_and_sends_nothing_back(case: tuple[Fleet, list[Arrival]]) -> None:
    """Where estimates are right and nobody falls, no node has less memory than a load was begun for."""
    fleet, trace = case
    world, witness = simulated(fleet, trace)

    failed = [event for event in witness.events if event.kind in ("load_failed", "unload_failed", "plan_dropped")]
    report = witness.report(world.agenda.now, world.agenda.steps, complete=True)
    assert failed == []
    assert (report.retries, report.broken) == (0, 0)


@given(case=cases(outages=False, honest=True, equal=True))
@small
def test_among_equals_only_a_queue_and_a_model_too_large_refuse(case: tuple[Fleet, list[Arrival]]) -> None:
    """Where any model may displace any, what fits an empty node is answered, or its queue was full or too slow."""
    fleet, trace = case
    world, witness = simulated(fleet, trace)

    fits = {model for model in fleet.catalogue if fits_somewhere(model, fleet)}
    for model in witness.report(world.agenda.now, world.agenda.steps, complete=True).models:
        if model.model in fits:
            assert model.refused.keys() <= {"rate_limit_exceeded"}, model
        elif model.model in fleet.catalogue:
            assert model.answered == 0, model


@given(case=cases())
@settings(small, max_examples=10)
def test_the_same_input_gives_the_same_events(case: tuple[Fleet, list[Arrival]]) -> None:
    """No clock, no chance: every decision is taken again at the same time for the same reason."""
    fleet, trace = case

    assert simulated(fleet, trace)[1].events == simulated(fleet, trace)[1].events
