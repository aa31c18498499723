from __future__ import annotations

from cortex.fleet.situation import Policy, Situation
from cortex.fleet.tend import Renew
from cortex.fleet.upkeep import Upkeep, renewal
from cortex.fleet.view import FleetView, NodeView, ReplicaView

HELD = {0: 3, 1: 4}


def worn(*models: str, cycles: int = 2) -> tuple[Upkeep, Situation]:
    """Return the upkeep of an idle node after so many unloads, where a renewal is due after two."""
    upkeep = Upkeep()
    for _ in range(cycles):
        upkeep.wear("a")
    replicas = tuple(ReplicaView(model, "a", "ready", bytes_by_device=HELD) for model in models)
    view = FleetView.of([NodeView("a", "http://a", True, replicas=replicas)])
    return upkeep, Situation(1000.0, view, policy=Policy(defrag_after_cycles=2))


def renewed(upkeep: Upkeep, moment: Situation) -> list[str]:
    return [chore.spot[1] for chore in upkeep.due(moment, {}) if isinstance(chore, Renew)]


def test_a_worn_node_s_replicas_are_due_one_by_one() -> None:
    upkeep, moment = worn("x", "y")

    assert renewed(upkeep, moment) == ["x"]
    upkeep.renew(("a", "x"))
    upkeep.count_anew(moment.view)
    assert renewed(upkeep, moment) == ["y"]
    upkeep.renew(("a", "y"))
    upkeep.count_anew(moment.view)

    assert renewed(upkeep, moment) == []


def test_unloads_are_counted_anew_once_all_are_renewed_or_the_node_began_anew() -> None:
    upkeep, moment = worn("x", cycles=1)
    assert renewed(upkeep, moment) == []

    upkeep.wear("a")
    assert renewed(upkeep, moment) == ["x"]
    upkeep.forget_node("a")

    assert renewed(upkeep, moment) == []


def test_a_model_rests_until_it_is_time_or_it_is_defined_otherwise() -> None:
    upkeep = Upkeep()
    upkeep.rest("x", 30.0)
    upkeep.rest("y", 30.0)

    assert [upkeep.rests("x", at) for at in (0.0, 29.9, 30.0)] == [True, True, False]
    assert not upkeep.rests("z", 0.0)
    upkeep.forget_models({"x"})

    assert (upkeep.rests("x", 0.0), upkeep.rests("y", 0.0)) == (False, True)


def test_a_replica_is_renewed_where_it_is_at_the_cost_of_a_load() -> None:
    _, moment = worn("x")

    plan = renewal(moment.view.node("a").models["x"], moment, "worn")

    assert (plan.node, plan.devices, plan.bytes_by_device, plan.blind) == ("a", (0, 1), HELD, False)
    assert (plan.victims, plan.drains, plan.reason) == ((("a", "x"),), (), "worn")
    assert plan.cost_seconds == moment.policy.reload_guess
