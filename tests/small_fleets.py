"""Small fleets to place a model in: made by hand, or of any kind that there is."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.fit import FLOOR_BYTES
from cortex.fleet.situation import UNKNOWN, Commitment, Need, Policy, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView

GIB, MIB = 1 << 30, 1 << 20
NOW = 10_000.0
NEW = ModelSpec(id="new")


def node(name: str, *free_gib: float, total: int = 24, **changed: Any) -> NodeView:
    """Return a node with as many devices as there are figures: what is free beside the floor."""
    rooms = tuple(
        Room(at, "cuda", f"gpu{at}", int(gib * GIB) + FLOOR_BYTES, at, total * GIB) for at, gib in enumerate(free_gib)
    )
    fields: dict[str, Any] = {"engines": ("llamacpp",), "rooms": rooms, "healthy": True}
    return NodeView(name, f"http://{name}", **{**fields, **changed})


def holding(name: str, free_gib: float, *replicas: ReplicaView, **changed: Any) -> NodeView:
    """Return a node of one device with these replicas."""
    return node(name, free_gib, replicas=replicas, **changed)


def replica(
    where: str, model: str, *gib: float, idle: float = 100.0, state: str = "ready", **changed: Any
) -> ReplicaView:
    """Return a replica with so many GiB on each of its node's devices."""
    held = {at: int(each * GIB) for at, each in enumerate(gib) if each}
    fields: dict[str, Any] = {"bytes_by_device": held, "last_used": NOW - idle, **changed}
    return ReplicaView(model, where, state, **fields)  # type: ignore[arg-type]


def situation(*nodes: NodeView, need: Need | float = 8.0, **changed: Any) -> Situation:
    """Return a moment at which every model takes so many GiB on one device."""
    wanted = need if isinstance(need, Need) else Need((int(need * GIB),))
    return Situation(NOW, FleetView.of(nodes), need=lambda _, __: wanted, **changed)


MODELS = ["m0", "m1", "m2", "m3", "m4", "m5"]
SPECS = st.builds(
    ModelSpec,
    id=st.just("new"),
    priority=st.sampled_from([100, 100, 150, 50]),
    devices=st.sampled_from(["auto", "auto", 1, 2]),
    min_device_memory=st.sampled_from([None, None, None, "16GiB"]),
    nodes=st.sampled_from([(), (), (), ("a", "b", "c")]),
)
CATALOGUES = st.fixed_dictionaries(
    {},
    optional={
        model: st.builds(
            ModelSpec,
            id=st.just(model),
            priority=st.sampled_from([100, 50, 50, 150]),
            pinned=st.sampled_from([False, False, False, True]),
            min_resident=st.integers(0, 1),
        )
        for model in MODELS
    },
)


@st.composite
def machines(draw: st.DrawFn, name: str) -> NodeView:
    """Return a node whose replicas, other programs and free bytes make up the totals of its devices."""
    count = draw(st.integers(1, 3))
    free = [draw(st.sampled_from([16, 24])) * GIB for _ in range(count)]
    totals, replicas = list(free), []
    for model in draw(st.lists(st.sampled_from([*MODELS, "new"]), unique=True, min_size=2, max_size=6)):
        held = {}
        for index in draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=2)):
            bytes_ = min(free[index], draw(st.integers(3, 12)) * GIB)
            held[index], free[index] = bytes_, free[index] - bytes_
        replicas.append(
            ReplicaView(
                model,
                name,
                draw(st.sampled_from([*["ready"] * 12, "loading", "draining", "failed"])),
                bytes_by_device=held,
                last_used=NOW - draw(st.sampled_from([0, 10, 100, 101, 5000])),
                is_reserved=draw(st.booleans()),
            )
        )
    kind = draw(st.sampled_from(["cuda", "cuda", "rocm"]))
    other = draw(st.sampled_from([0, 0, 2])) * GIB
    rooms = tuple(Room(i, kind, f"gpu{i}", max(0, free[i] - other), i, totals[i]) for i in range(count))
    return NodeView(
        name,
        f"http://{name}",
        draw(st.sampled_from([*[True] * 6, False])),
        drained=draw(st.sampled_from([*[False] * 6, True])),
        engines=draw(st.sampled_from([*[("llamacpp",)] * 6, ("simulated",)])),
        rooms=(*rooms, Room(9, "cpu", "cpu", 64 * GIB, 0, 64 * GIB)),
        replicas=tuple(replicas),
    )


NEEDS = st.sampled_from(
    [*(Need((gib * GIB,)) for gib in (6, 10, 14, 20, 30)), Need((9 * GIB, 4 * GIB)), Need((4 * GIB, 9 * GIB)), UNKNOWN]
)


@st.composite
def moments(draw: st.DrawFn) -> Situation:
    """Return a small fleet at a moment of any kind."""
    nodes = [
        draw(machines(name)) for name in draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1, max_size=5))
    ]
    spots = [replica.spot for node in nodes for replica in node.replicas]
    some = st.sets(st.sampled_from(spots), max_size=2)
    needs = {node.name: draw(NEEDS) for node in nodes}
    claims = st.builds(Commitment, st.sampled_from(["m0", "other", "new"]), st.just({0: 3 * GIB}))
    seconds = st.sampled_from([0.0, 1.0, 20.0, 60.0])
    return Situation(
        NOW,
        FleetView.of(nodes),
        draw(CATALOGUES),
        flights=dict.fromkeys(draw(some), 1),
        foreign=dict.fromkeys(draw(some), 1),
        used=dict.fromkeys(draw(some), NOW - 50),
        leaving=frozenset(draw(some)),
        commitments={node.name: (draw(claims),) for node in nodes if draw(st.integers(0, 4)) == 0},
        need=lambda _, name: needs[name],
        load_seconds={spot: draw(seconds) for spot in [*spots, ("a", "new"), ("b", "new")]},
        mean_load_seconds={"new": 7.0} if draw(st.booleans()) else {},
        policy=Policy(strategy=draw(st.sampled_from(["lru", "priority"]))),
    )


WAYS = st.fixed_dictionaries(
    {},
    optional={
        "may_evict": st.booleans(),
        "may_drain": st.booleans(),
        "avoid": st.sampled_from([frozenset(), frozenset("a")]),
        "victims_idle_for": st.sampled_from([0.0, 60.0]),
    },
)
