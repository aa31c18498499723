from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.fleet.devices import Room
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.wire.node_api import ReplicaState


def replica(model: str, node: str = "a", **changed: Any) -> ReplicaView:
    return ReplicaView(model, node, **{"state": "ready", **changed})


def node(name: str, *models: str, **changed: Any) -> NodeView:
    replicas = tuple(replica(model, name) for model in models)
    return NodeView(name, f"http://{name}:1", **{"healthy": True, "replicas": replicas, **changed})


def test_replicas_are_found_by_model_on_healthy_nodes_in_the_order_of_their_nodes() -> None:
    view = FleetView.of((node("c", "m"), node("a", "m", "n"), node("b", "m", healthy=False)))

    assert [found.node for found in view.replicas_of("m")] == ["a", "c"]
    assert view.replicas_of("nothing") == ()
    assert view.models == {"m", "n"}
    assert [each.name for each in view.nodes] == ["c", "a", "b"]


def test_a_view_is_not_changed_by_what_comes_after_it() -> None:
    before = FleetView.of((node("a", "m"),))
    after = before.with_node(node("a", "n"))

    assert before.models == {"m"}
    assert after.models == {"n"}
    assert after.without_node("a") == FleetView()


def test_what_is_as_it_was_is_shared() -> None:
    """Whoever keeps what it found for a model may tell by identity that it still holds."""
    before = FleetView.of((node("a", "m"), node("b", "n")))
    after = before.with_node(node("b", "n", "o"))

    assert after.by_model["m"] is before.by_model["m"]
    assert after.by_model["n"] is before.by_model["n"]
    assert before.with_node(node("a", "m", reason="polled again")).by_model is before.by_model


@pytest.mark.parametrize(("changed", "usable"), [({}, True), ({"healthy": False}, False), ({"drained": True}, False)])
def test_new_work_goes_to_what_is_healthy_and_in_service(changed: dict[str, Any], usable: bool) -> None:
    assert node("a", **changed).usable is usable


def test_the_bytes_of_a_replica_are_those_on_all_its_devices_or_unknown() -> None:
    assert replica("m", bytes_by_device={0: 3, 1: 4}).memory_bytes == 7
    assert replica("m").memory_bytes is None


def test_the_devices_of_a_node_are_summed_up_by_kind_the_largest_first() -> None:
    rooms = (
        Room(0, "cuda", "x", 5, total_bytes=8),
        Room(1, "cuda", "x", 7, total_bytes=7),
        Room(2, "cpu", "c", 1, total_bytes=9),
    )
    able = {"llamacpp": ("cuda", "cpu"), "other": ("cpu",), "no": ("rocm",)}
    held = replica("m", bytes_by_device={0: 3, 2: 8})
    there = node("a", rooms=rooms, engines=tuple(able), engine_devices=able, replicas=(held,))

    assert there.standing.offers == {
        "llamacpp": (("cuda",), (7, 5), (8, 7), (8, 7), {0: 5, 1: 7}),
        "other": (("cpu",), (1,), (9,), (9,), {2: 1}),
        "no": ((), (), (), (), {}),
    }


@pytest.mark.parametrize("away", [{"healthy": False}, {"drained": True}, {"leaving": True}])
def test_a_node_that_takes_no_new_work_offers_nothing(away: dict[str, Any]) -> None:
    there = node("a", rooms=(Room(0, "cuda", "x", 5),), engines=("llamacpp",), **away)

    assert there.standing.offers == {}


def test_the_oldest_use_is_that_of_the_replica_idle_for_longest() -> None:
    there = node("a", replicas=(replica("m", last_used=9.0), replica("n", last_used=4.0)))

    assert (there.standing.oldest_use, node("b").standing.oldest_use) == (4.0, float("inf"))
    assert there.standing.spots == {("a", "m"), ("a", "n")}


@pytest.mark.parametrize(
    ("state", "moves"), [("ready", False), ("failed", False), ("loading", True), ("draining", True)]
)
def test_a_node_is_moving_while_a_replica_comes_or_goes(state: ReplicaState, moves: bool) -> None:
    assert node("a", replicas=(replica("m", state=state),)).standing.is_moving is moves


nodes = st.builds(
    lambda name, models, healthy: node(name, *models, healthy=healthy),
    st.sampled_from("abc"),
    st.lists(st.sampled_from("mnop"), unique=True),
    st.booleans(),
)


@given(st.lists(nodes | st.sampled_from("abc"), max_size=12))
def test_the_index_is_what_it_would_be_if_it_were_built_anew(changes: list[NodeView | str]) -> None:
    view = FleetView()
    for change in changes:
        view = view.without_node(change) if isinstance(change, str) else view.with_node(change)

    whole = [found for each in view.nodes if each.healthy for found in each.replicas]
    anew = {
        m: tuple(sorted((r for r in whole if r.model == m), key=lambda r: r.node)) for m in {r.model for r in whole}
    }
    assert view.by_model == anew
