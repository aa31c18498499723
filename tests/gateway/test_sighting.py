from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cortex.fleet.devices import Room
from cortex.fleet.view import NodeView, ReplicaView
from cortex.gateway.sighting import USE_TOLERANCE_SECONDS, discovered_node, same_but_seen, seen_node
from cortex.wire.node_api import Activation, DeviceHealth, DeviceInfo, Discovery, Health, LoadProgress, ModelInfo

GIB = 1 << 30
DISCOVERY = Discovery(
    hostname="attic",
    os="linux",
    kernel="6",
    boot_id="boot-1",
    version="0.2.0",
    devices=[
        DeviceInfo(index=0, name="CPU", kind="cpu", memory_total_bytes=64 * GIB),
        DeviceInfo(index=1, name="RTX", kind="cuda", memory_total_bytes=24 * GIB, ordinal=3),
    ],
    engines=["llamacpp", "simulated"],
    engine_devices={"llamacpp": ["cpu", "cuda"]},
)
DISCOVERED = discovered_node("attic", "http://attic:13131", DISCOVERY)


def health(*models: ModelInfo, status: str = "ready", devices: tuple[DeviceHealth, ...] = (), **keys: Any) -> Health:
    return Health(
        boot_id="boot-1",
        status=status,
        uptime_secs=1.0,
        readings_age_seconds=0.1,
        devices=list(devices),
        activation=Activation(state="ready"),
        models=list(models),
        **keys,
    )


def model(id: str = "m", **keys: Any) -> ModelInfo:
    return ModelInfo(id=id, engine="llamacpp", **{"status": "ready", "idle_seconds": 5.0, **keys})


def seen(answer: Health, former: NodeView = DISCOVERED, now: float = 100.0) -> NodeView:
    return seen_node(DISCOVERED, answer, former, now)


def replica_of(info: ModelInfo, former: NodeView = DISCOVERED, now: float = 100.0) -> ReplicaView:
    return seen(health(info), former, now).replicas[0]


def test_what_was_discovered_is_part_of_every_sighting() -> None:
    view = seen(health())

    assert (view.name, view.endpoint, view.boot_id, view.version) == ("attic", "http://attic:13131", "boot-1", "0.2.0")
    assert view.engines == ("llamacpp", "simulated")
    assert view.engine_devices == {"llamacpp": ("cpu", "cuda")}
    assert (view.healthy, view.reason, view.leaving, view.seen_at) == (True, "", False, 100.0)


def test_a_room_is_what_is_free_less_what_loads_have_reserved() -> None:
    reading = DeviceHealth(index=1, memory_used_bytes=0, memory_free_bytes=20 * GIB, memory_reserved_bytes=8 * GIB)
    view = seen(health(devices=(reading,)))

    assert view.rooms == (Room(0, "cpu", "CPU", 0, 0, 64 * GIB), Room(1, "cuda", "RTX", 12 * GIB, 3, 24 * GIB))


def test_a_room_never_has_less_than_nothing() -> None:
    reading = DeviceHealth(index=1, memory_used_bytes=0, memory_free_bytes=1, memory_reserved_bytes=2)

    assert seen(health(devices=(reading,))).rooms[1].free_bytes == 0


def test_a_replica_is_what_its_node_says_of_it() -> None:
    said = model(
        slots=4,
        in_flight=1,
        queued=2,
        context_tokens=8192,
        capabilities=["chat"],
        bytes_by_device={1: 8 * GIB},
        is_reserved=True,
        simulated=True,
        error="no",
        load_seconds=3.5,
    )

    assert replica_of(said) == ReplicaView(
        model="m",
        node="attic",
        state="ready",
        slots=4,
        in_flight=1,
        queued=2,
        context_tokens=8192,
        capabilities=("chat",),
        bytes_by_device={1: 8 * GIB},
        is_reserved=True,
        simulated=True,
        error="no",
        load_seconds=3.5,
        last_used=95.0,
    )


@pytest.mark.parametrize(
    ("keys", "last_used"),
    [
        ({"idle_seconds": 0.0}, 100.0),
        ({"idle_seconds": 30.0}, 70.0),
        ({"idle_seconds": None, "in_flight": 1}, 100.0),
        ({"idle_seconds": None, "queued": 1}, 100.0),
        ({"idle_seconds": None, "status": "loading"}, 100.0),
        ({"idle_seconds": None}, 0.0),
    ],
    ids=["just ended", "idle", "busy", "queued", "loading", "a node that cannot tell"],
)
def test_last_use_is_in_the_gateway_s_own_time(keys: dict[str, Any], last_used: float) -> None:
    assert replica_of(model(**keys)).last_used == last_used


def test_the_way_of_an_answer_does_not_move_the_last_use() -> None:
    """Else every answer would change every replica, and whoever listens to changes would never rest."""
    first = seen(health(model(idle_seconds=5.0)), now=100.0)
    second = seen(health(model(idle_seconds=7.0 - USE_TOLERANCE_SECONDS / 2)), first, now=102.0)

    assert second.replicas is first.replicas


def test_the_last_use_does_not_creep_away_in_small_steps() -> None:
    view = seen(health(model(idle_seconds=0.0)), now=100.0)
    for step in range(1, 11):
        view = seen(health(model(idle_seconds=0.0)), view, now=100.0 + step * USE_TOLERANCE_SECONDS * 0.75)

    assert view.replicas[0].last_used >= 100.0 + 9 * USE_TOLERANCE_SECONDS * 0.75


@pytest.mark.parametrize(
    ("progress", "text"),
    [(None, ""), (LoadProgress("fetching"), "fetching"), (LoadProgress("loading", 39.6), "loading 40%")],
)
def test_progress_is_told_in_words(progress: LoadProgress | None, text: str) -> None:
    assert replica_of(model(status="loading", progress=progress)).progress == text


def test_a_node_that_drains_is_leaving_and_not_healthy_and_still_tells_of_its_replicas() -> None:
    view = seen(health(model(), status="draining"))

    assert (view.healthy, view.leaving, view.reason) == (False, True, "is shutting down")
    assert [replica.model for replica in view.replicas] == ["m"]


def test_the_operator_s_mark_survives_every_sighting() -> None:
    assert seen(health(), replace(DISCOVERED, drained=True)).drained
    assert not seen(health(), DISCOVERED).drained


def test_what_is_as_it_was_is_shared_and_the_rest_is_not() -> None:
    reading = DeviceHealth(index=1, memory_used_bytes=0, memory_free_bytes=GIB)
    first = seen(health(model("a"), model("b"), devices=(reading,)))
    second = seen(health(model("a", idle_seconds=7.0), model("b", queued=1), devices=(reading,)), first, now=102.0)

    assert second.rooms is first.rooms
    assert second.replicas[0] is first.replicas[0]
    assert second.replicas[1].queued == 1


def test_being_seen_again_is_no_change() -> None:
    first = seen(health(model()), now=100.0)

    assert same_but_seen(first, seen(health(model(idle_seconds=7.0)), first, now=102.0))
    assert not same_but_seen(first, seen(health(model(idle_seconds=7.0, slots=9)), first, now=102.0))
    assert not same_but_seen(first, replace(first, drained=True))
