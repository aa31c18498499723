from __future__ import annotations

from typing import Any

import pytest

from cortex import __version__
from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.situation import Need, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.listing import describe_model, health, list_models
from cortex.wire.node_api import ReplicaState

GIB = 1 << 30
QWEN = ModelSpec(id="Qwen/Qwen3", context=4096, aliases=("qwen",))


def replica(node: str, state: ReplicaState = "ready", **fields: Any) -> ReplicaView:
    return ReplicaView(fields.pop("model", QWEN.id), node, state, **fields)


def node(name: str, *replicas: ReplicaView, **changed: Any) -> NodeView:
    fields: dict[str, Any] = {
        "endpoint": f"http://{name}:13131",
        "healthy": True,
        "engines": ("llamacpp",),
        "rooms": (Room(0, "cuda", "RTX 3060", 8 * GIB),),
    }
    return NodeView(name, **{**fields, **changed}, replicas=replicas)


def describe(*nodes: NodeView, spec: ModelSpec | None = QWEN) -> dict[str, Any]:
    return describe_model(QWEN.id, spec, FleetView.of(nodes), created=7)


def test_the_list_is_what_could_be_served_and_what_is_loaded() -> None:
    catalogue = Catalogue([QWEN, ModelSpec(id="a/a")])
    view = FleetView.of(
        (node("n", replica("n", model="loaded-by-hand")), node("down", replica("down", model="x"), healthy=False))
    )

    listed = list_models(catalogue, view, created=7)

    assert [entry["id"] for entry in listed] == ["Qwen/Qwen3", "a/a", "loaded-by-hand"]
    assert all((entry["object"], entry["created"], entry["owned_by"]) == ("model", 7, "cortex") for entry in listed)


def test_a_cold_model_says_where_it_could_run() -> None:
    entry = describe(node("b"), node("a"), node("c", engines=()))

    assert (entry["state"], entry["loaded"], entry["feasible_on"]) == ("unloaded", False, ["a", "b"])
    assert (entry["context_length"], entry["max_model_len"]) == (4096, 4096)
    assert entry["aliases"] == ["qwen"]
    assert "reason" not in entry


def test_a_loaded_model_says_what_the_replicas_enforce() -> None:
    entry = describe(
        node(
            "a",
            replica("a", context_tokens=2048, slots=4, capabilities=("chat", "tools"), bytes_by_device={0: 3 << 20}),
        ),
        node("b", replica("b", context_tokens=1024, slots=2, capabilities=("chat",))),
        node("c", replica("c", "loading", context_tokens=1, capabilities=("vision",))),
    )

    assert (entry["state"], entry["loaded"]) == ("ready", True)
    assert (entry["context_length"], entry["slots"]) == (1024, 6)
    assert entry["capabilities"] == ["chat", "tools"]
    assert entry["locations"] == [
        {"node": "a", "status": "loaded", "vram_estimate_mb": 3, "error": None},
        {"node": "b", "status": "loaded", "vram_estimate_mb": None, "error": None},
        {"node": "c", "status": "loading", "vram_estimate_mb": None, "error": None},
    ]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["loading", "ready"], "ready"),
        (["draining", "loading"], "loading"),
        (["failed", "draining"], "draining"),
        (["failed"], "failed"),
        (["unloaded"], "unloaded"),
        ([], "unloaded"),
    ],
)
def test_the_best_replica_gives_the_state(states: list[ReplicaState], state: str) -> None:
    nodes = [node(f"n{at}", replica(f"n{at}", each)) for at, each in enumerate(states)] or [node("n")]

    assert describe(*nodes)["state"] == state


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([], "no node is configured"),
        (
            [node("a", healthy=False, reason="refused"), node("b", engines=())],
            "a: refused; b: engine 'llamacpp' is not installed",
        ),
    ],
)
def test_a_model_that_cannot_be_had_says_why(nodes: list[NodeView], reason: str) -> None:
    entry = describe(*nodes)

    assert (entry["state"], entry["feasible_on"], entry["reason"]) == ("unavailable", [], reason)


def test_a_failed_replica_shows_its_error() -> None:
    (location,) = describe(node("a", replica("a", "failed", error="out of memory")))["locations"]

    assert (location["status"], location["error"]) == ("failed", "out of memory")


@pytest.mark.parametrize(
    ("spec", "nodes", "simulated"),
    [
        (QWEN, [node("a", replica("a"))], False),
        (QWEN, [node("a", replica("a", simulated=True))], True),
        (None, [node("a", replica("a", simulated=True))], True),
        (ModelSpec(id=QWEN.id, engine="simulated"), [], True),
    ],
)
def test_what_is_simulated_is_labelled_so(spec: ModelSpec | None, nodes: list[NodeView], simulated: bool) -> None:
    assert describe(*nodes, spec=spec)["simulated"] is simulated


@pytest.mark.parametrize(
    ("up", "status"), [([True, True], "ok"), ([True, False], "ok"), ([False, False], "degraded"), ([], "degraded")]
)
def test_the_gateway_is_well_while_one_node_answers(up: list[bool], status: str) -> None:
    said = health(FleetView.of(tuple(node(f"n{at}", healthy=each) for at, each in enumerate(up))))

    assert said["status"] == status
    assert said["nodes"] == {"healthy": sum(up), "total": len(up)}


def test_health_lists_each_node_with_devices_and_models() -> None:
    (detail,) = health(FleetView.of((node("a", replica("a", in_flight=2)),)))["details"]

    assert detail == {
        "name": "a",
        "endpoint": "http://a:13131",
        "healthy": True,
        "drained": False,
        "leaving": False,
        "version": "",
        "reason": "",
        "devices": [{"name": "RTX 3060", "kind": "cuda", "free_bytes": 8 * GIB}],
        "models": [{"id": "Qwen/Qwen3", "status": "ready", "in_flight": 2}],
    }


def describe_in(*nodes: NodeView, spec: ModelSpec | None = QWEN, need_gib: int = 4, **facts: Any) -> dict[str, Any]:
    """Return the entry of a gateway that knows what the model needs."""
    view = FleetView.of(nodes)
    catalogue = {spec.id: spec} if spec is not None else {}
    need = Need((need_gib * GIB,), "measured")
    situation = Situation(100.0, view, catalogue, need=lambda _model, _node: need, **facts)
    return describe_model(QWEN.id, spec, view, 7, situation)


def test_replicas_are_counted_and_the_nodes_named_that_serve_now() -> None:
    entry = describe(
        node("a", replica("a")), node("b", replica("b", "loading")), node("c", replica("c", "draining")), node("d")
    )

    assert (entry["replicas"], entry["nodes"]) == (2, ["a"])


def test_the_catalogue_s_wishes_are_listed() -> None:
    wishes = ModelSpec(id=QWEN.id, priority=200, pinned_on=("a",), ttl="15m", min_resident=1, max_replicas=3)

    entry = describe(node("a"), spec=wishes)

    assert (entry["priority"], entry["pinned"], entry["pinned_on"]) == (200, False, ["a"])
    assert (entry["ttl_seconds"], entry["min_resident"], entry["max_replicas"]) == (900.0, 1, 3)
    assert "priority" not in describe(node("a", replica("a")), spec=None)


def test_a_model_that_is_too_large_for_every_node_says_so() -> None:
    entry = describe_in(node("a"), need_gib=40)

    assert (entry["state"], entry["feasible_on"]) == ("unavailable", [])
    assert entry["reason"].startswith("a: Qwen/Qwen3 needs 40960 MiB on one device")


def test_a_model_that_fits_nowhere_now_says_what_is_in_the_way() -> None:
    full = (Room(0, "cuda", "RTX 3060", 1 * GIB, total_bytes=8 * GIB),)

    entry = describe_in(node("a", rooms=full))

    assert (entry["state"], entry["feasible_on"]) == ("unloaded", ["a"])
    assert entry["reason"] == "Qwen/Qwen3 fits nowhere now: a: other programs hold the memory"


def test_a_model_that_a_request_would_load_has_no_reason() -> None:
    assert "reason" not in describe_in(node("a"))


@pytest.mark.parametrize("state", ["ready", "loading"])
def test_a_model_that_is_there_or_coming_has_no_reason(state: ReplicaState) -> None:
    assert "reason" not in describe_in(node("a", replica("a", state), rooms=()))


def test_a_failed_replica_of_a_model_without_a_catalogue_entry_is_the_reason() -> None:
    entry = describe_in(node("a", replica("a", "failed", error="out of memory")), spec=None)

    assert entry["reason"] == "no replica of Qwen/Qwen3 can serve now: a: out of memory"


def test_health_tells_the_versions_and_who_is_leaving() -> None:
    said = health(FleetView.of((node("a", healthy=False, leaving=True, version="0.1.0"),)))

    assert said["version"] == __version__
    assert [(detail["version"], detail["leaving"]) for detail in said["details"]] == [("0.1.0", True)]
