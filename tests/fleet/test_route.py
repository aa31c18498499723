from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import CortexError, ModelNotFound, ModelNotReady, NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import Room
from cortex.fleet.route import Decision, Load, Refuse, Serve, Wait, route
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.wire.node_api import ReplicaState

GIB = 1 << 30
QWEN = "Qwen/Qwen3"
SPEC = ModelSpec(id=QWEN)


def node(
    name: str, state: ReplicaState | None = None, *, slots: int = 1, model: str = QWEN, **changed: Any
) -> NodeView:
    """Return a node that has *model* in *state*, or nothing at all."""
    fields: dict[str, Any] = {
        "endpoint": f"http://{name}:13131",
        "healthy": True,
        "engines": ("llamacpp",),
        "rooms": (Room(0, "cuda", "gpu", 8 * GIB),),
        "replicas": (ReplicaView(model, name, state, slots),) if state else (),
    }
    return NodeView(name, **{**fields, **changed})


def decide(
    *nodes: NodeView, spec: ModelSpec | None = SPEC, busy: dict[str, int] | None = None, avoid: set[str] | None = None
) -> Decision:
    under_way = {(name, QWEN): count for name, count in (busy or {}).items()}
    return route(QWEN, spec, FleetView(nodes), busy=under_way, avoid=avoid or set())


def served_on(decision: Decision) -> str:
    assert isinstance(decision, Serve)
    return decision.replica.node


def refusal(decision: Decision) -> CortexError:
    assert isinstance(decision, Refuse)
    return decision.error


@pytest.mark.parametrize(
    ("slots", "busy", "winner"),
    [
        ({"b": 1, "a": 1}, {}, "a"),
        ({"a": 1, "b": 1}, {"a": 1}, "b"),
        ({"a": 1, "b": 1}, {"a": 2, "b": 2}, "a"),
        ({"a": 1, "b": 4}, {"a": 1, "b": 3}, "b"),
        ({"a": 2, "b": 4}, {"a": 1, "b": 2}, "a"),
        ({"a": 4, "b": 1}, {"a": 3, "b": 1}, "a"),
        ({"a": 0, "b": 1}, {"a": 1, "b": 1}, "a"),
    ],
)
def test_the_ready_replica_that_is_least_busy_for_its_slots_serves(
    slots: dict[str, int], busy: dict[str, int], winner: str
) -> None:
    nodes = [node(name, "ready", slots=count) for name, count in slots.items()]

    assert served_on(decide(*nodes, busy=busy)) == winner


def test_requests_for_another_model_do_not_count() -> None:
    view = FleetView((node("a", "ready"), node("b", "ready")))

    decision = route(QWEN, SPEC, view, busy={("a", "other"): 9})

    assert served_on(decision) == "a"


def test_a_ready_replica_comes_before_one_that_is_loading_and_before_a_load() -> None:
    assert served_on(decide(node("a", "loading"), node("b"), node("c", "ready"), busy={"c": 50})) == "c"


def test_a_replica_that_is_loading_is_waited_for_instead_of_loading_another() -> None:
    assert decide(node("b", "loading"), node("a"), node("c", "loading")) == Wait(QWEN, "b")


def test_a_model_that_nobody_has_is_loaded_where_there_is_most_room() -> None:
    roomy = node("b", rooms=(Room(0, "cuda", "gpu", 24 * GIB),))

    decision = decide(node("a"), roomy, node("down", healthy=False))

    assert isinstance(decision, Load)
    assert decision.spec is SPEC
    assert [c.node for c in decision.candidates] == ["b", "a"]


@pytest.mark.parametrize("state", ["draining", "failed", "unloaded"])
def test_a_replica_that_cannot_serve_is_loaded_anew(state: ReplicaState) -> None:
    assert isinstance(decide(node("a", state)), Load)


@pytest.mark.parametrize("state", ["ready", "loading"])
def test_replicas_on_nodes_that_do_not_answer_do_not_exist(state: ReplicaState) -> None:
    decision = decide(node("a", state, healthy=False), node("b"))

    assert isinstance(decision, Load)
    assert [c.node for c in decision.candidates] == ["b"]


def test_a_node_that_failed_this_request_is_not_tried_again() -> None:
    nodes = (node("a", "ready"), node("b", "ready"), node("c", "loading"), node("d"))

    assert served_on(decide(*nodes, avoid={"a"})) == "b"
    assert decide(*nodes, avoid={"a", "b"}) == Wait(QWEN, "c")
    load = decide(*nodes, avoid={"a", "b", "c"})
    assert isinstance(load, Load)
    assert [c.node for c in load.candidates] == ["d"]


def test_when_every_node_failed_this_request_it_may_come_back() -> None:
    error = refusal(decide(node("a", "ready"), node("b"), avoid={"a", "b"}))

    assert isinstance(error, NoHealthyNode)
    assert error.retry_after_seconds


@pytest.mark.parametrize("nodes", [[], [node("a")], [node("a", "ready", model="other")], [node("a", "unloaded")]])
def test_a_model_that_nobody_knows_is_not_found(nodes: list[NodeView]) -> None:
    error = refusal(decide(*nodes, spec=None))

    assert isinstance(error, ModelNotFound)
    assert QWEN in error.message


def test_while_no_node_answers_an_unknown_model_may_still_turn_up() -> None:
    error = refusal(decide(node("a", "ready", healthy=False), spec=None))

    assert isinstance(error, NoHealthyNode)
    assert (error.status, error.retry_after_seconds) == (503, 5)


def test_a_loaded_model_needs_no_entry_in_the_catalogue() -> None:
    assert served_on(decide(node("a", "ready"), spec=None)) == "a"
    assert decide(node("a", "loading"), spec=None) == Wait(QWEN, "a")


@pytest.mark.parametrize(
    ("state", "avoid", "said"),
    [("draining", set(), "a: draining"), ("failed", set(), "a: failed"), ("ready", {"a"}, "a: failed this request")],
)
def test_a_model_that_a_node_has_but_cannot_serve_now_exists(state: ReplicaState, avoid: set[str], said: str) -> None:
    """The client hears 503 with a delay, not that the model does not exist."""
    error = refusal(decide(node("a", state), spec=None, avoid=avoid))

    assert isinstance(error, ModelNotReady)
    assert said in error.message
    assert error.retry_after_seconds


def test_a_model_whose_nodes_are_down_is_a_reason_to_retry() -> None:
    error = refusal(decide(node("a", healthy=False, reason="refused"), node("b", engines=())))

    assert isinstance(error, NoHealthyNode)
    assert "a: refused" in error.message
    assert error.retry_after_seconds


def test_a_model_that_no_node_could_ever_serve_names_the_reason_of_each() -> None:
    error = refusal(decide(node("a", engines=("simulated",)), node("b", rooms=())))

    assert isinstance(error, NoFeasibleNode)
    assert "a: engine 'llamacpp' is not installed" in error.message
    assert "b: 1 devices were asked for" in error.message
    assert error.should_retry is False


def test_a_gateway_without_nodes_says_what_to_configure() -> None:
    error = refusal(decide())

    assert isinstance(error, NoHealthyNode)
    assert "[[neurons]]" in error.message


NODES = st.lists(
    st.builds(
        node,
        st.sampled_from("abcdef"),
        st.none() | st.sampled_from(get_args(ReplicaState)),
        slots=st.integers(0, 3),
        healthy=st.booleans(),
        engines=st.sampled_from([("llamacpp",), ()]),
    ),
    unique_by=lambda n: n.name,
    max_size=6,
)
BUSY = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), max_size=6)
AVOID = st.sets(st.sampled_from("abcdef"), max_size=3)


@settings(deadline=None, max_examples=300)
@given(NODES, st.none() | st.just(SPEC), BUSY, AVOID)
def test_no_request_ever_goes_where_it_cannot_be_served(
    nodes: list[NodeView], spec: ModelSpec | None, busy: dict[str, int], avoid: set[str]
) -> None:
    by_name = {n.name: n for n in nodes}
    usable = {n.name for n in nodes if n.healthy} - avoid

    match decide(*nodes, spec=spec, busy=busy, avoid=avoid):
        case Serve(replica):
            assert replica.state == "ready"
            assert replica.node in usable
        case Wait(_, where):
            assert where in usable
            assert by_name[where].replicas[0].state == "loading"
        case Load(wanted, candidates):
            assert wanted is spec
            assert candidates
            assert all(c.node in usable and by_name[c.node].engines for c in candidates)
        case Refuse(error):
            assert not any(r.state in ("ready", "loading") for name in usable for r in by_name[name].replicas)
            assert error.status in (404, 503)


@settings(deadline=None)
@given(NODES, BUSY, AVOID, st.randoms())
def test_equal_fleets_route_equally(nodes: list[NodeView], busy: dict[str, int], avoid: set[str], random: Any) -> None:
    """The order in which the nodes are listed says nothing but in the words of a refusal."""
    first = decide(*nodes, busy=busy, avoid=avoid)
    second = decide(*random.sample(nodes, len(nodes)), busy=busy, avoid=avoid)

    if isinstance(first, Refuse):
        assert type(refusal(second)) is type(first.error)
    else:
        assert first == second
