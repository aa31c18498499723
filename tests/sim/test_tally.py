"""Counts add up, and fractions are of the time that has passed."""

from __future__ import annotations

import pytest

from cortex.core.errors import Overloaded
from cortex.fleet.work import Event
from cortex.sim.description import Behaviour
from cortex.sim.tally import Tally
from cortex.sim.visit import Visit, visit_of

from .fleets import arrivals, fleet, machine


@pytest.fixture
def tally() -> Tally:
    """Of two nodes with 16 GB each."""
    return Tally(fleet([machine("n0", 16), machine("n1", 16)], {"a": Behaviour(memory="8 GB")}), "lru")


def answered(arrived: float, served: float, first: float) -> Visit:
    visit = visit_of(arrivals("a", arrived, completion=40)[0], "a")
    visit.outcome, visit.spot, visit.served_at, visit.first_token_at = "answered", ("n0", "a"), served, first
    return visit


def test_each_request_is_counted_where_it_belongs(tally: Tally) -> None:
    """By what became of it, by model, and by node if one answered it."""
    for arrival in arrivals("a", 1.0, 2.0, 3.0):
        tally.arrived(arrival)
    refused, broken = visit_of(arrivals("a", 2.0)[0], "a"), answered(3.0, 3.0, 3.5)
    refused.outcome, refused.cold = "refused", True
    broken.outcome, broken.retries = "broken", 1

    tally.settle(answered(1.0, 2.0, 2.5), None, 4.0)
    tally.settle(refused, Overloaded("no"), 4.0)
    tally.settle(broken, Overloaded("gone"), 4.0)

    report = tally.report(10.0, 7, complete=True)
    assert (report.requests, report.answered, report.broken, report.retries, report.cold_starts) == (3, 1, 1, 1, 1)
    assert report.refused == {"rate_limit_exceeded": 1}
    assert (report.queue_seconds.max, report.ttft_seconds.max, report.total_seconds.max) == (1.0, 1.5, 3.0)
    assert report.tokens_per_second == 4.0
    assert [node.requests for node in report.nodes] == [1, 0]
    assert list(tally.curve().arrived) == [1.0]


def test_nodes_are_as_busy_and_as_full_as_they_were_for_how_long(tally: Tally) -> None:
    """Up to the moment of the report."""
    tally.stands("n0", 1, 8_000_000_000, 2.0)
    tally.stands("n0", 3, 16_000_000_000, 4.0)
    tally.stands("n0", 0, 0, 6.0)
    tally.stands("n1", 1, 4_000_000_000, 5.0)

    report = tally.report(10.0, 0, complete=True)

    assert [(node.busy, node.memory) for node in report.nodes] == [(0.4, 0.3), (0.5, 0.125)]
    assert (report.busy, report.memory) == (0.45, 0.2125)


def test_events_are_counted_by_what_they_tell(tally: Tally) -> None:
    """A swap is a load that something goes for."""
    for kind, details in (
        ("planned", {"plan": {"evicts": ["b"]}}),
        ("planned", {"plan": {"evicts": []}}),
        ("evicted", {}),
        ("unloaded", {}),
        ("load_finished", {}),
        ("load_failed", {"code": "insufficient_memory"}),
        ("load_failed", {"code": None}),
    ):
        tally.note(Event(1.0, kind, "a", "n0", "because", details))

    report = tally.report(10.0, 0, complete=True)
    assert (report.swaps, report.evictions, report.unloads, report.loads) == (1, 1, 1, 1)
    assert report.failed_loads == {"insufficient_memory": 1, "unknown": 1}


def test_nothing_divided_by_no_time_is_nothing(tally: Tally) -> None:
    """A run that is interrupted at once has a report."""
    report = tally.report(0.0, 0, complete=False)

    assert (report.busy, report.memory, report.tokens_per_second) == (0.0, 0.0, 0.0)
