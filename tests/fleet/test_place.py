from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import NoFeasibleNode, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.fit import Room
from cortex.fleet.place import Candidate, place, require_candidates, why_not
from cortex.fleet.view import FleetView, NodeView

GIB = 1 << 30
QWEN = ModelSpec(id="Qwen/Qwen3")


def node(name: str, free_gib: int = 8, **changed: Any) -> NodeView:
    fields: dict[str, Any] = {
        "endpoint": f"http://{name}:13131",
        "healthy": True,
        "engines": ("llamacpp", "simulated"),
        "rooms": (Room(0, "cuda", "gpu", free_gib * GIB),),
    }
    return NodeView(name, **{**fields, **changed})


def test_the_node_with_the_most_free_memory_comes_first_and_ties_go_by_name() -> None:
    placement = place(QWEN, FleetView((node("c", 8), node("b", 8), node("d", 24), node("a", 4))))

    assert placement.candidates == (
        Candidate("d", 24 * GIB),
        Candidate("b", 8 * GIB),
        Candidate("c", 8 * GIB),
        Candidate("a", 4 * GIB),
    )
    assert placement.rejected == ()


def test_only_the_devices_that_would_be_used_count() -> None:
    two = (Room(0, "cuda", "gpu", 8 * GIB), Room(1, "cuda", "gpu", 8 * GIB), Room(2, "cpu", "cpu", 99 * GIB))
    view = FleetView((node("split", rooms=two), node("single", 12)))

    assert [c.node for c in place(QWEN, view).candidates] == ["single", "split"]
    assert place(ModelSpec(id="m/m", devices=2), view).candidates == (Candidate("split", 16 * GIB),)


@pytest.mark.parametrize(
    ("spec", "where", "reason"),
    [
        (QWEN, node("a"), None),
        (ModelSpec(id="m/m", nodes=("a",)), node("a"), None),
        (ModelSpec(id="m/m", nodes=("b", "c")), node("a"), "the catalogue allows only b, c"),
        (ModelSpec(id="m/m", pinned_on=("b",)), node("a"), "the catalogue allows only b"),
        (QWEN, node("a", healthy=False, reason="connection refused"), "connection refused"),
        (QWEN, node("a", healthy=False), "does not answer"),
        (ModelSpec(id="m/m", engine="vllm"), node("a"), "engine 'vllm' is not installed"),
        (ModelSpec(id="m/m", devices=2), node("a"), "2 devices were asked for; engine 'llamacpp' can use 1 here"),
        (QWEN, node("a", rooms=(Room(0, "simulated", "s", GIB),)), "can use 0 here"),
        (ModelSpec(id="m", engine="simulated"), node("a", rooms=(Room(0, "simulated", "s", GIB),)), None),
        (ModelSpec(id="m/m", nodes=("b",)), node("a", healthy=False), "the catalogue allows only b"),
    ],
)
def test_each_node_has_one_reason_why_not(spec: ModelSpec, where: NodeView, reason: str | None) -> None:
    said = why_not(spec, where)

    assert said is None if reason is None else said is not None and reason in said


@pytest.mark.parametrize(
    ("spec", "nodes", "error", "said"),
    [
        (QWEN, [], NoHealthyNode, ["[[neurons]]"]),
        (
            QWEN,
            [node("a", healthy=False, reason="refused"), node("b", healthy=False)],
            NoHealthyNode,
            ["a: refused", "b: "],
        ),
        (
            ModelSpec(id="m/m", engine="vllm"),
            [node("a"), node("b", healthy=False, reason="timed out")],
            NoHealthyNode,
            ["m/m could run on b", "a: engine 'vllm' is not installed", "b: timed out"],
        ),
        (ModelSpec(id="m/m", nodes=("b",)), [node("a"), node("b", healthy=False)], NoHealthyNode, ["could run on b"]),
        (
            ModelSpec(id="m/m", engine="vllm"),
            [node("a"), node("b", rooms=())],
            NoFeasibleNode,
            ["no node can serve m/m", "a: engine 'vllm'", "b: engine 'vllm'"],
        ),
        (
            ModelSpec(id="m/m", devices=2, nodes=("a", "c")),
            [node("a"), node("b", healthy=False)],
            NoFeasibleNode,
            ["a: 2 devices were asked for", "b: the catalogue allows only a, c"],
        ),
    ],
)
def test_without_a_candidate_the_reason_says_whether_to_come_back(
    spec: ModelSpec, nodes: list[NodeView], error: type[Exception], said: list[str]
) -> None:
    """A node that is down may come back: retry. Nodes that could never serve it: do not."""
    view = FleetView(tuple(nodes))

    with pytest.raises(error) as caught:
        require_candidates(spec, view, place(spec, view))

    assert all(part in str(caught.value) for part in said)
    assert isinstance(caught.value, NoHealthyNode | NoFeasibleNode)
    assert (caught.value.retry_after_seconds is not None) == (error is NoHealthyNode)
    assert caught.value.status == 503


def test_a_candidate_is_all_that_is_required() -> None:
    view = FleetView((node("a"), node("b", healthy=False)))

    require_candidates(QWEN, view, place(QWEN, view))


NODES = st.lists(
    st.builds(
        node,
        st.sampled_from("abcdef"),
        st.integers(0, 4),
        healthy=st.booleans(),
        engines=st.sampled_from([("llamacpp",), ("simulated",), ()]),
    ),
    unique_by=lambda n: n.name,
    max_size=6,
)


@settings(deadline=None)
@given(NODES, st.randoms(), st.sampled_from([(), ("a", "b")]))
def test_every_node_is_a_candidate_or_rejected_in_any_order(
    nodes: list[NodeView], random: Any, allowed: tuple[str, ...]
) -> None:
    spec = ModelSpec(id="m/m", nodes=allowed)
    placement = place(spec, FleetView(tuple(nodes)))
    shuffled = random.sample(nodes, len(nodes))

    assert {c.node for c in placement.candidates} | {name for name, _ in placement.rejected} == {n.name for n in nodes}
    assert len(placement.candidates) + len(placement.rejected) == len(nodes)
    assert placement.candidates == place(spec, FleetView(tuple(shuffled))).candidates
    usable = {n.name for n in nodes if n.healthy and "llamacpp" in n.engines and (not allowed or n.name in allowed)}
    assert {c.node for c in placement.candidates} == usable
