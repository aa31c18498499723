"""The gateway's view lags behind what is true, as a real one does."""

from __future__ import annotations

from cortex.sim.agenda import Agenda
from cortex.sim.description import Behaviour, Delays, Limits
from cortex.sim.node import Node
from cortex.sim.poller import Poller

from .fleets import machine

SIX = Behaviour(memory="6 GB")


class Watched:
    """Two nodes that are polled, and when which of them was seen to change."""

    def __init__(self) -> None:
        self.agenda = Agenda()
        self.nodes = {name: Node(machine(name, 24), ("llamacpp",)) for name in ("a", "b")}
        self.changes: list[tuple[str, float]] = []
        self.poller = Poller(self.agenda, self.nodes, Limits(), Delays(answer_seconds=0.25), self.on_change)

    def on_change(self, name: str) -> None:
        self.changes.append((name, self.agenda.now))

    def until(self, seconds: float) -> None:
        self.agenda.at(seconds, lambda: None)
        while self.agenda.now < seconds:
            self.agenda.step()


def test_a_change_is_seen_at_the_next_turn() -> None:
    """Turns of different nodes are apart; what did not change costs nothing."""
    watched = Watched()
    replica = watched.nodes["a"].begin_load("m", SIX, (0,), 0.0)
    replica.state = "ready"

    watched.poller.disturb("a")
    watched.poller.disturb("a")
    watched.until(10.0)

    assert watched.changes == [("a", 2.25)]
    assert watched.poller.view.replicas_of("m")[0].state == "ready"


def test_what_works_is_seen_at_each_turn() -> None:
    """Its node says that it is used right now."""
    watched = Watched()
    watched.nodes["a"].begin_load("m", SIX, (0,), 0.0)

    watched.poller.disturb("a")
    watched.until(6.5)

    assert [at for _, at in watched.changes] == [2.25, 4.25, 6.25]


def test_an_answer_tells_what_was_when_it_was_asked_for() -> None:
    """It takes time on its way."""
    watched, heard = Watched(), list[str]()

    watched.poller.look("a", heard.append)
    watched.nodes["a"].begin_load("m", SIX, (0,), 0.0).state = "ready"
    watched.until(1.0)

    assert heard == ["a"]
    assert watched.changes == [("a", 0.25)]
    assert watched.poller.view.node("a").replicas == ()


def test_a_node_is_lost_after_three_misses_and_found_again() -> None:
    """Until then it is thought to be as it was."""
    watched = Watched()
    watched.nodes["b"].fall()
    watched.poller.disturb("b")

    watched.until(5.0)
    assert watched.poller.view.node("b").healthy
    watched.until(8.0)
    assert not watched.poller.view.node("b").healthy
    watched.nodes["b"].rise()
    watched.poller.disturb("b")
    watched.until(11.0)

    assert watched.poller.view.node("b").healthy
    assert watched.poller.view.node("b").boot_id == "b:2"


def test_a_drained_node_stays_drained_however_often_it_answers() -> None:
    """The operator says so, not the node."""
    watched = Watched()

    watched.poller.set_drained("a", True)
    watched.poller.look("a")
    watched.until(1.0)
    assert watched.poller.view.node("a").drained
    watched.poller.set_drained("a", False)

    assert not watched.poller.view.node("a").drained
