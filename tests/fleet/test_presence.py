from __future__ import annotations

from typing import Any

from cortex.fleet.presence import Presence
from cortex.fleet.view import NodeView, ReplicaView

A, B = ("a", "m"), ("b", "m")


def node(name: str, *replicas: ReplicaView, seen_at: float = 0.0, **changed: Any) -> NodeView:
    return NodeView(name, f"http://{name}", True, replicas=replicas, seen_at=seen_at, **changed)


def replica(name: str, **changed: Any) -> ReplicaView:
    return ReplicaView("m", name, "ready", **changed)


def showing(*nodes: NodeView) -> Presence:
    presence = Presence()
    for each in nodes:
        presence.show(presence.view.with_node(each), each.name)
    return presence


def spots(presence: Presence) -> list[str]:
    return [each.node for each in presence.ready("m")]


def test_what_leaves_is_given_no_more_work_and_what_stays_after_all_is() -> None:
    presence = showing(node("a", replica("a")), node("b", replica("b")))
    assert spots(presence) == ["a", "b"]

    presence.leaves(A)
    assert spots(presence) == ["b"]
    presence.stays(A)
    assert spots(presence) == ["a", "b"]


def test_what_is_unloaded_leaves_until_its_node_has_been_seen_since() -> None:
    presence = showing(node("a", replica("a")), node("b", replica("b")))
    presence.leaves(A)

    presence.take_in(node("a", replica("a"), seen_at=9.0), 9.0, {})
    assert presence.leaving == {A: None}
    presence.gone(A, 10.0)
    presence.take_in(node("a", replica("a"), seen_at=9.5), 10.0, {})
    assert presence.leaving == {A: 10.0}
    presence.take_in(node("a", seen_at=10.5), 10.5, {})

    assert presence.leaving == {}


def test_a_drained_node_s_replicas_are_ready_only_where_there_is_no_other() -> None:
    presence = showing(node("a", replica("a")), node("b", replica("b")))
    assert spots(presence) == ["a", "b"]

    presence.show(presence.view.with_node(node("a", replica("a"), drained=True)), "a")
    assert spots(presence) == ["b"]
    presence.show(presence.view.without_node("b"), "b")

    assert spots(presence) == ["a"]


def test_requests_beyond_our_own_are_others() -> None:
    presence = Presence()

    presence.take_in(node("a", replica("a", in_flight=2, queued=1)), 0.0, {A: 1})
    assert presence.foreign == {A: 2}
    presence.take_in(node("a", replica("a", in_flight=1)), 1.0, {A: 1})

    assert presence.foreign == {}


def test_a_restart_begins_when_it_is_announced_and_ends_with_the_next_answer() -> None:
    presence = Presence()
    for at in (5.0, 6.0):
        presence.take_in(node("a", leaving=True), at, {})
    assert presence.restarting == {"a": 5.0}

    presence.take_in(node("a"), 7.0, {})

    assert presence.restarting == {}


def test_of_a_node_that_began_anew_only_what_is_still_being_unloaded_is_kept() -> None:
    presence = showing(node("a", replica("a")))
    presence.take_in(node("a", replica("a", in_flight=1), leaving=True), 0.0, {})
    presence.leaves(A)
    presence.leaves(("a", "other"))
    presence.gone(("a", "other"), 1.0)
    presence.leaves(B)

    presence.forget_node("a")

    assert (presence.leaving, presence.foreign, presence.restarting) == ({A: None, B: None}, {}, {})
