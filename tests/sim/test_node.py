"""A simulated node keeps its own books: memory is held once, and nothing is killed with work to do."""

from __future__ import annotations

import pytest

from cortex.core.errors import InsufficientMemory, ModelNotReady, NoFeasibleNode, ShuttingDown, UpstreamFailed
from cortex.sim.description import Behaviour, Device, Machine
from cortex.sim.errors import SimulationError
from cortex.sim.node import Node
from cortex.sim.trace import Arrival
from cortex.sim.visit import Visit, visit_of

from .fleets import machine

SIX = Behaviour(memory="6 GB")


def visit(session: str | None = None, prompt: int = 100, completion: int = 10) -> Visit:
    return visit_of(Arrival(at=0, model="m", prompt_tokens=prompt, completion_tokens=completion, session=session), "m")


def test_a_load_holds_its_memory_from_its_first_moment() -> None:
    """Two loads never count the same free bytes."""
    node = Node(machine("n", 10), ("llamacpp",))

    node.begin_load("a", SIX, (0,), 0.0)

    assert node.rooms()[0].free_bytes == 4_000_000_000
    with pytest.raises(InsufficientMemory):
        node.begin_load("b", SIX, (0,), 0.0)


def test_a_split_model_takes_its_share_of_each_device_and_waits_for_the_slowest() -> None:
    """In equal shares."""
    devices = [Device(name="fast", memory="8 GB"), Device(name="slow", memory="8 GB", speed=0.5)]
    node = Node(Machine(name="n", devices=devices), ("llamacpp",))

    replica = node.begin_load("a", SIX, (0, 1), 0.0)

    assert replica.bytes_by_device == {0: 3_000_000_000, 1: 3_000_000_000}
    assert (replica.speed, replica.load_seconds) == (0.5, 3.0)


def test_a_node_refuses_what_it_cannot_do() -> None:
    """Devices that it does not have, what is there already, and anything while it goes or is gone."""
    node = Node(machine("n", 24), ("llamacpp",))
    node.begin_load("a", SIX, (0,), 0.0)

    with pytest.raises(NoFeasibleNode):
        node.begin_load("b", SIX, (1,), 0.0)
    with pytest.raises(ModelNotReady):
        node.begin_load("a", SIX, (0,), 0.0)
    node.is_leaving = True
    with pytest.raises(ShuttingDown):
        node.begin_load("b", SIX, (0,), 0.0)
    node.fall()
    with pytest.raises(UpstreamFailed):
        node.begin_load("b", SIX, (0,), 0.0)


def test_a_replica_with_work_is_never_killed() -> None:
    """Whoever tries has a defect."""
    node = Node(machine("n", 24), ("llamacpp",))
    replica = node.begin_load("a", SIX, (0,), 0.0)
    replica.slots.start(visit(), 1.0, 1.0, 0.0)

    with pytest.raises(SimulationError, match="was killed with requests under way"):
        node.remove(replica)


def test_more_than_a_device_has_is_a_defect() -> None:
    """It cannot be reached through a load, so the books are cooked here."""
    node = Node(machine("n", 10), ("llamacpp",))
    node.begin_load("a", SIX, (0,), 0.0).bytes_by_device = {0: 11_000_000_000}

    with pytest.raises(SimulationError, match="device 0 holds 1000000000 bytes more than it has"):
        node.rooms()


def test_a_turn_reads_only_what_is_new_of_its_conversation() -> None:
    """What a session left is cached, less the last token; others' sessions push it out."""
    node = Node(machine("n", 24), ("llamacpp",))
    replica = node.begin_load("a", Behaviour(memory="6 GB", cached_sessions=1), (0,), 0.0)

    replica.remember(visit("s"))
    replica.remember(visit(None))

    assert replica.cached_tokens(visit("s", prompt=150)) == 110
    assert replica.cached_tokens(visit("s", prompt=50)) == 49
    assert replica.cached_tokens(visit(None)) == 0
    replica.remember(visit("other"))
    assert replica.cached_tokens(visit("s", prompt=150)) == 0


def test_a_node_that_rises_is_another_one() -> None:
    """Empty, and with a boot id that tells so."""
    node = Node(machine("n", 24), ("llamacpp",))
    node.begin_load("a", SIX, (0,), 0.0)
    before = node.view(1.0, drained=False)

    lost = node.fall()
    node.rise()

    after = node.view(2.0, drained=False)
    assert [replica.model for replica in lost] == ["a"]
    assert after.boot_id != before.boot_id
    assert after.replicas == ()
    assert after.rooms[0].free_bytes == 24_000_000_000
