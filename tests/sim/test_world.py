"""The virtual world does what a real fleet would, and holds the decisions to their promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cortex.core.errors import Overloaded
from cortex.fleet.route import Choice
from cortex.fleet.situation import Policy
from cortex.fleet.work import Event
from cortex.sim.description import Behaviour, Delays, Fleet, Outage
from cortex.sim.errors import SimulationError
from cortex.sim.report import Report
from cortex.sim.tally import Tally
from cortex.sim.trace import Arrival
from cortex.sim.visit import visit_of
from cortex.sim.world import World

from .fleets import arrivals, fleet, machine

ELEVEN = Behaviour(memory="11 GB", load_seconds=5.0)


def simulated(fleet: Fleet, trace: list[Arrival], policy: Policy | None = None) -> Report:
    tally = Tally(fleet, "test")
    world = World(fleet, policy or fleet.policy, tally)
    world.run(trace)
    return tally.report(world.agenda.now, world.agenda.steps, complete=True)


def test_a_cold_model_is_loaded_once_for_all_who_wait() -> None:
    """An estimate of half a second, five to load; then both are served, and the next one at once."""
    report = simulated(fleet([machine("n", 16)], {"a": ELEVEN}), arrivals("a", 1.0, 2.0, 30.0))

    assert (report.answered, report.cold_starts, report.loads) == (3, 2, 1)
    assert report.queue_seconds.max == pytest.approx(5.5, abs=0.1)
    assert report.queue_seconds.p50 == pytest.approx(4.5, abs=0.1)
    # 100 tokens read at 2000 a second, and the first of those that are written at 50 a second.
    assert report.ttft_seconds.p50 - report.queue_seconds.p50 == pytest.approx(0.05 + 0.02, abs=1e-6)
    assert report.total_seconds.p50 - report.queue_seconds.p50 == pytest.approx(0.05 + 1.0, abs=1e-6)


def test_a_second_model_takes_the_place_of_the_first() -> None:
    """Where both do not fit."""
    report = simulated(
        fleet([machine("n", 16)], {"a": ELEVEN, "b": ELEVEN}), [*arrivals("a", 0.0), *arrivals("b", 30.0)]
    )

    assert (report.answered, report.swaps, report.evictions) == (2, 1, 1)
    assert [(model.model, model.evictions) for model in report.models] == [("a", 1), ("b", 0)]


def test_a_later_turn_of_a_conversation_starts_sooner() -> None:
    """Its replica has the turn before in its cache."""
    model = Behaviour(memory="1 GB", load_seconds=0.0, prefill_tokens_per_second=100)
    trace = arrivals("a", 0.0, prompt=100, completion=100, session="s")
    again = arrivals("a", 60.0, prompt=300, completion=100, session="s")

    report = simulated(fleet([machine("n", 16)], {"a": model}), trace + again)

    assert report.cached_tokens == 200
    assert report.ttft_seconds.max == pytest.approx(1.0 + 0.02 + 0.5, abs=0.1)


def crashing(**keys: Any) -> Report:
    """Return what becomes of a long answer on the only one of two nodes that has the model, which crashes in it."""
    outage = Outage(down_at=20.0, **keys)
    nodes = [machine("n0", 24, outages=[outage]), machine("n1", 16)]
    return simulated(fleet(nodes, {"a": ELEVEN}), arrivals("a", 10.0, completion=1000, stream=False))


def test_a_crash_sends_those_to_another_node_who_have_seen_nothing() -> None:
    """Which loads the model for them."""
    report = crashing()

    assert (report.answered, report.retries, report.broken, report.loads) == (1, 1, 0, 2)
    assert [node.requests for node in report.nodes] == [0, 1]


def test_a_crash_cuts_a_stream_short() -> None:
    """Nobody else can go on where it was."""
    nodes = [machine("n0", 16, outages=[Outage(down_at=20.0, up_at=21.0)])]

    report = simulated(fleet(nodes, {"a": ELEVEN}), arrivals("a", 10.0, completion=1000))

    assert (report.answered, report.broken, report.refused) == (0, 1, {})


def test_an_announced_restart_lets_answers_end_and_is_waited_for() -> None:
    """Nothing is cut short; who comes meanwhile waits until the node is back."""
    nodes = [machine("n0", 16, outages=[Outage(down_at=20.0, up_at=35.0, how="restart")])]
    trace = arrivals("a", 12.0, completion=600) + arrivals("a", 30.0)

    report = simulated(fleet(nodes, {"a": ELEVEN}), trace)

    assert (report.answered, report.broken, report.loads) == (2, 0, 2)


def test_what_is_on_a_drained_node_moves() -> None:
    """It is loaded elsewhere first; then it goes."""
    nodes = [machine("n0", 24, outages=[Outage(down_at=20.0, how="drain")]), machine("n1", 16)]

    report = simulated(fleet(nodes, {"a": ELEVEN}), arrivals("a", 0.0, 60.0))

    assert (report.answered, report.loads, report.unloads, report.cold_starts) == (2, 2, 1, 1)


def test_a_model_that_cannot_be_estimated_is_tried() -> None:
    """Blindly: the node alone can tell."""
    model = Behaviour(memory="11 GB", estimate="unknown", load_seconds=1.0)

    report = simulated(fleet([machine("n", 16)], {"a": model}), arrivals("a", 0.0))

    assert (report.answered, report.loads) == (1, 1)


def test_what_never_loads_is_refused_for_what_it_failed_of() -> None:
    """And so is what nobody knows."""
    model = Behaviour(memory="1 GB", load_seconds=1.0, fail_load="the file is broken")

    report = simulated(
        fleet([machine("n", 16)], {"a": model}), [*arrivals("a", 0.0), *arrivals("nobody-knows-it", 1.0)]
    )

    assert report.refused == {"model_load_failed": 1, "model_not_found": 1}
    assert report.failed_loads.keys() == {"model_load_failed"}


def test_what_takes_more_than_was_said_is_refused_by_the_node() -> None:
    """Its memory is never exceeded, whatever was estimated."""
    model = Behaviour(memory="20 GB", estimate="5 GB", load_seconds=1.0)

    report = simulated(fleet([machine("n", 16)], {"a": model}), arrivals("a", 0.0))

    assert report.refused == {"insufficient_memory": 1}


def test_an_alias_is_its_model() -> None:
    """In the figures, too."""
    described = fleet([machine("n", 16)], {"a": ELEVEN})
    tally = Tally(described, "test")
    world = World(replace(described, aliases={"short": "a"}), described.policy, tally)

    world.run(arrivals("short", 0.0))

    assert tally.settled == 1


# the promises ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """A world in which nothing has happened, of one node with a pinned model."""
    described = fleet([machine("n", 16)], {"a": ELEVEN}, {"a": {"pinned": True}})
    return World(described, described.policy, Tally(described, "test"))


def test_nobody_is_served_who_does_not_wait(world: World) -> None:
    """Nor twice."""
    visit = visit_of(arrivals("a", 0.0)[0], "a")
    replica = world.nodes["n"].begin_load("a", ELEVEN, (0,), 0.0).view("n", 0.0)

    with pytest.raises(SimulationError, match="did not wait was given n"):
        world.serve(visit, Choice(replica, 1.0, "only free replica"))


def test_nobody_is_refused_who_does_not_wait(world: World) -> None:
    """Nor twice."""
    with pytest.raises(SimulationError, match="did not wait was refused"):
        world.refuse(visit_of(arrivals("a", 0.0)[0], "a"), Overloaded("too many"))


def test_what_is_pinned_is_not_evicted(world: World) -> None:
    """Whatever for."""
    with pytest.raises(SimulationError, match="a is pinned on n and was evicted"):
        world.note(Event(0.0, "evicted", "a", "n", "makes room for b"))


def test_nobody_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconciler that leaves someone waiting for ever is found out."""
    described = replace(fleet([machine("n", 16)], {"a": ELEVEN}), delays=Delays(tick_seconds=600.0))
    world = World(described, described.policy, Tally(described, "test"))
    monkeypatch.setattr(world.reconciler, "ask", lambda *_: None)

    with pytest.raises(SimulationError, match=r"a request for a waits since 1.000 s: nothing is done about it"):
        world.run(arrivals("a", 1.0))


def test_what_loads_is_not_unloaded(world: World) -> None:
    """It would be gone before it came."""
    world.nodes["n"].begin_load("a", ELEVEN, (0,), 0.0)
    world.unload(("n", "a"))

    with pytest.raises(SimulationError, match="a on n was to be unloaded while it was loading"):
        world.agenda.step()
