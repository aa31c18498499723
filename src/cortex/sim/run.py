"""Run traces through fleets: one world for each fleet and policy, all of them with the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cortex.sim.description import Fleet, Strategy
from cortex.sim.report import Curve, Report
from cortex.sim.tally import Tally
from cortex.sim.trace import Arrival
from cortex.sim.world import World


@dataclass(frozen=True, slots=True)
class Result:
    """What one run found."""

    report: Report
    curve: Curve


def simulate(
    fleet: Fleet,
    strategy: Strategy,
    arrivals: Iterable[Arrival],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Return what becomes of *arrivals*, in order of time, on *fleet* under *strategy*.

    KeyboardInterrupt ends the run; what was found so far is returned as not complete. Raises SimulationError.
    """
    tally = Tally(fleet, strategy)
    world = World(fleet, replace(fleet.policy, strategy=strategy), tally)
    complete = True
    try:
        world.run(arrivals, on_progress)
    except KeyboardInterrupt:
        complete = False
    agenda = world.agenda
    return Result(tally.report(agenda.now, agenda.steps, complete=complete), tally.curve())


def compare(
    fleets: Sequence[Fleet],
    strategies: Sequence[Strategy],
    trace: Callable[[], Iterable[Arrival]],
    on_progress: Callable[[str, int], None] = lambda _, __: None,
) -> Iterator[Result]:
    """Yield what each of *fleets* makes of *trace* under each of *strategies*, or under its own if there are none.

    *on_progress* hears which run it is and how many requests are settled. A run that is interrupted is the last.
    """
    for fleet in fleets:
        for strategy in strategies or (fleet.policy.strategy,):
            result = simulate(fleet, strategy, trace(), partial(on_progress, f"{fleet.name}, {strategy}"))
            yield result
            if not result.report.complete:
                return
