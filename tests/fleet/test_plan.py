"""What one node could do for a model, where memory is promised, returning, or not worth taking."""

from __future__ import annotations

from typing import Any

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.place import Candidate, consider, place
from cortex.fleet.situation import Commitment, Need, Policy, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView

GIB = 1 << 30
NOW = 1000.0
NEW = ModelSpec(id="new", engine="simulated")


def replica(model: str, gib: int, **keys: Any) -> ReplicaView:
    return ReplicaView(model, "a", keys.pop("state", "ready"), bytes_by_device={0: gib * GIB}, **keys)


def look(free_gib: float, *replicas: ReplicaView, need_gib: int, may_drain: bool = False, **moment: Any) -> Candidate:
    """Consider a node with one device for a model that needs so much."""
    room = Room(0, "simulated", "gpu", int(free_gib * GIB) + FLOOR_BYTES, 0, 64 * GIB)
    node = NodeView("a", "http://a", True, engines=("simulated",), rooms=(room,), replicas=replicas)
    need = Need((need_gib * GIB,))
    situation = Situation(NOW, FleetView.of((node,)), need=lambda _, __: need, **moment)
    return consider(NEW, node, situation, may_drain=may_drain)


def test_a_busy_replica_is_drained_only_once_its_load_was_worth_it() -> None:
    """Or two models that are never idle would do nothing but take turns."""
    moment = {"flights": {("a", "old"): 1}, "load_seconds": {("a", "old"): 30.0}, "policy": Policy(drain_after=5.0)}

    fresh = look(0, replica("old", 8, ready_since=NOW - 20), need_gib=8, may_drain=True, **moment)
    settled = look(0, replica("old", 8, ready_since=NOW - 31), need_gib=8, may_drain=True, **moment)

    assert fresh.verdict == "wait"
    assert any("has been there for 20 s, not 30 s" in obstacle for obstacle in fresh.obstacles)
    assert (settled.verdict, settled.plan and settled.plan.drains) == ("drain", (("a", "old"),))


def test_nobody_goes_for_memory_that_a_long_drain_holds_back() -> None:
    """What drains returns 4 GiB, nobody knows when; the idle one's 4 would lie unused until then."""
    busy = {("a", "going"): 1}
    replicas = replica("going", 4), replica("idle", 4, last_used=0.0)

    later = look(0, *replicas, need_gib=8, flights=busy, leaving=frozenset({("a", "going")}))
    at_once = look(0, *replicas, need_gib=8, leaving=frozenset({("a", "going")}))

    assert (later.verdict, later.plan) == ("wait", None)
    assert at_once.plan is not None
    assert at_once.plan.victims == (("a", "idle"),)


def test_what_is_loaded_anew_keeps_its_claim_on_the_memory_it_gives_back() -> None:
    claim = {"a": (Commitment("renewed", {0: 8 * GIB}),)}
    found = look(0, replica("renewed", 8), need_gib=4, commitments=claim, leaving=frozenset({("a", "renewed")}))

    assert (found.verdict, found.plan) == ("wait", None)


def test_figures_that_do_not_add_up_while_something_loads_are_waited_out() -> None:
    """Only where nothing moves is what is missing taken for somebody else's."""
    moving = look(0, ReplicaView("loads", "a", "loading"), need_gib=8)
    still = look(0, need_gib=8)

    assert (moving.verdict, moving.reason) == ("wait", "what would have to go may go only later")
    assert (still.verdict, still.reason) == ("never", "other programs hold the memory")


def test_what_is_to_be_resident_does_not_go_for_its_like_unasked() -> None:
    """Two that fit only singly would swap for ever, with nobody asking."""
    kept = ModelSpec(id="kept", min_resident=1)
    node_of = {"catalogue": {"kept": kept}}

    def placed(*, unasked: bool) -> bool:
        room = Room(0, "simulated", "gpu", FLOOR_BYTES, 0, 64 * GIB)
        node = NodeView("a", "http://a", True, engines=("simulated",), rooms=(room,), replicas=(replica("kept", 8),))
        need = Need((8 * GIB,))
        situation = Situation(NOW, FleetView.of((node,)), need=lambda _, __: need, **node_of)  # type: ignore[arg-type]
        return place(NEW, situation, unasked=unasked).plan is not None

    assert placed(unasked=False)
    assert not placed(unasked=True)
