from __future__ import annotations

from typing import Any

import pytest

from cortex.fleet.situation import UNKNOWN, Need, Policy, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView


def replica(node: str, **changed: Any) -> ReplicaView:
    return ReplicaView("m", node, **{"state": "ready", **changed})


def fleet(*replicas: ReplicaView, drained: str = "") -> FleetView:
    return FleetView.of(NodeView(r.node, "", True, drained=r.node in drained, replicas=(r,)) for r in replicas)


@pytest.mark.parametrize(
    ("need", "count", "shares"),
    [
        (Need((10,)), 1, (10,)),
        (Need((10,)), 2, (5, 5)),
        (Need((10,)), 3, (4, 4, 4)),
        (Need((7, 3)), 2, (7, 3)),
        (Need((7, 3)), 1, (10,)),
        (UNKNOWN, 2, ()),
    ],
)
def test_a_need_is_split_evenly_where_that_split_was_never_looked_at(
    need: Need, count: int, shares: tuple[int, ...]
) -> None:
    assert need.over(count) == shares
    assert sum(shares) >= need.total_bytes


def test_a_replica_is_busy_with_ours_and_with_what_others_have_there() -> None:
    moment = Situation(0.0, flights={("a", "m"): 2}, foreign={("a", "m"): 1, ("b", "m"): 3})

    assert [moment.busy((node, "m")) for node in "abc"] == [3, 3, 0]


def test_the_last_use_is_the_later_of_ours_and_the_node_s_word() -> None:
    moment = Situation(0.0, used={("a", "m"): 5.0})

    assert moment.last_used(replica("a", last_used=3.0)) == 5.0
    assert moment.last_used(replica("a", last_used=8.0)) == 8.0
    assert moment.last_used(replica("b")) == 0.0


def test_a_load_costs_what_was_measured_there_else_elsewhere_else_a_guess() -> None:
    moment = Situation(
        0.0, load_seconds={("a", "m"): 4.0}, mean_load_seconds={"m": 6.0}, policy=Policy(reload_guess=9.0)
    )

    assert moment.reload_seconds(("a", "m")) == 4.0
    assert moment.reload_seconds(("b", "m")) == 6.0
    assert moment.reload_seconds(("a", "n")) == 9.0


def test_only_what_is_ready_and_stays_may_be_given_work() -> None:
    view = fleet(replica("a"), replica("b", state="loading"), replica("c"), replica("d", state="failed"))

    assert [r.node for r in Situation(0.0, view, leaving={("c", "m")}).ready("m")] == ["a"]


def test_a_drained_node_is_given_work_only_if_there_is_no_other() -> None:
    both, alone = fleet(replica("a"), replica("b"), drained="a"), fleet(replica("a"), drained="a")

    assert [r.node for r in Situation(0.0, both).ready("m")] == ["b"]
    assert [r.node for r in Situation(0.0, alone).ready("m")] == ["a"]
    assert [r.node for r in Situation(0.0, both, leaving={("b", "m")}).ready("m")] == ["a"]
