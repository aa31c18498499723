"""The operator's pages: how the fleet is, what it would do and did, and which nodes belong to it."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.gateway import fleet_routes
from cortex.gateway.steward import WaitingRequest
from cortex.wire.sse import KEEP_ALIVE
from fake_fleet import GIB, Call, FakeFleet, FakeNode, Gateway, ask, soon, until

pytestmark = pytest.mark.anyio


async def send(
    gateway: Gateway, method: str, path: str, body: bytes = b"", declared: str = "application/json"
) -> httpx2.Response:
    headers = {"content-type": declared}
    return await soon(gateway._client.request(method, gateway.url + path, content=body, headers=headers))


async def explained(gateway: Gateway, model: str) -> dict[str, Any]:
    answer = await gateway.get(f"/fleet/explain/{model}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def crowded(fleet: FakeFleet, *specs: ModelSpec) -> tuple[FakeNode, Gateway]:
    """A node of 8 GiB where `m` has 6 of them, and other models take 6 as well."""
    node = await fleet.node()
    node.free_bytes = 2 * GIB
    health = node.health()
    health["models"][0].update(bytes_by_device={0: 6 * GIB}, idle_seconds=100.0)
    node.script(lambda call: call.respond(200, health), "/health")
    node.script(estimate, "/models/estimate")
    return node, await fleet.gateway(*specs)


async def estimate(call: Call) -> None:
    said = {"model_id": call.json()["id"], "devices": [0], "bytes_per_device": {0: 6 * GIB}, "basis": "measured"}
    await call.respond(200, said)


async def learn_need(gateway: Gateway, node: FakeNode, spec: ModelSpec) -> None:
    """Have the gateway ask the node what *spec* takes."""
    gateway.cortex.steward.estimate(spec, node.name)
    await until(lambda: gateway.cortex.steward.reconciler.learned.knows((node.name, spec.id)))


async def test_the_fleet_is_every_node_with_its_devices_and_replicas(fleet: FakeFleet) -> None:
    await fleet.node("a")
    down = await fleet.node("b")
    await down.stop()
    gateway = await fleet.gateway()
    a, b = (await gateway.get("/fleet")).json()["nodes"]

    assert (a["name"], a["healthy"], a["drained"], a["engines"]) == ("a", True, False, ["llamacpp"])
    assert a["devices"] == [
        {
            "index": 0,
            "name": "CPU",
            "kind": "cpu",
            "total_bytes": 16 * GIB,
            "free_bytes": 8 * GIB,
            "utilization_percent": None,
            "temperature_celsius": None,
        },
    ]
    assert [(replica["model"], replica["state"], replica["slots"]) for replica in a["replicas"]] == [("m", "ready", 4)]
    assert 0 <= a["seen_seconds_ago"] < 60
    assert (b["healthy"], b["seen_seconds_ago"], b["replicas"]) == (False, None, [])
    assert "does not answer" in b["reason"]


async def test_the_fleet_tells_what_waits_and_what_is_planned_where(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(Call.caller_left, "/models/load")
    gateway = await fleet.gateway(ModelSpec(id="cold"))
    client = await gateway.connect(ask("cold"))
    await node.call("/models/load")
    said = (await gateway.get("/fleet")).json()
    client.hang_up()

    assert (said["waiting"], said["plans"]) == ({"cold": 1}, {"a": ["cold"]})


async def test_a_model_that_is_ready_is_served(fleet: FakeFleet) -> None:
    await fleet.node()
    said = await explained(await fleet.gateway(), "m")

    assert (said["decision"], said["catalogued"]) == ("serve", False)
    assert said["summary"].startswith("a serves it")
    assert [(r["node"], r["in_flight"], r["slots"]) for r in said["replicas"]] == [("a", 0, 4)]


async def test_a_model_whose_slots_are_all_taken_is_queued_for(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    for _ in range(4):
        await gateway.cortex.steward.replica_for(WaitingRequest("m", time.monotonic()))
    said = await explained(gateway, "m")

    assert said["decision"] == "queue"
    assert said["replicas"][0]["note"].startswith("no free slot")


async def test_a_cold_model_is_loaded_after_what_makes_room_for_it(fleet: FakeFleet) -> None:
    cold = ModelSpec(id="cold", aliases=("chilly",))
    node, gateway = await crowded(fleet, cold)
    await learn_need(gateway, node, cold)
    said = await explained(gateway, "chilly")

    assert (said["model"], said["decision"]) == ("cold", "load")
    assert said["summary"].startswith("it is loaded on a after unloading m")
    assert said["candidates"][0]["plan"]["evicts"] == ["m"]
    assert said["job"] is None
    assert node.asked("/models/load") == []


async def test_a_model_that_nothing_makes_room_for_is_refused_with_every_reason(fleet: FakeFleet) -> None:
    cold = ModelSpec(id="cold")
    node, gateway = await crowded(fleet, cold, ModelSpec(id="m", pinned=True))
    await learn_need(gateway, node, cold)
    said = await explained(gateway, "cold")

    assert said["decision"] == "refuse"
    assert "a: what would have to go is pinned" in said["summary"]
    assert any("is pinned there" in obstacle for obstacle in said["candidates"][0]["obstacles"])


async def test_a_model_that_is_on_its_way_is_waited_for_and_its_past_is_told(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(Call.caller_left, "/models/load")
    gateway = await fleet.gateway(ModelSpec(id="cold"))
    client = await gateway.connect(ask("cold"))
    await node.call("/models/load")
    said = await explained(gateway, "cold")
    client.hang_up()

    assert (said["decision"], said["waiting"], said["job"]["phase"]) == ("wait", 1, "loading")
    assert [entry["kind"] for entry in said["last"]] == ["planned", "load_started"]


async def test_a_model_that_nobody_knows_is_not_explained(fleet: FakeFleet) -> None:
    answer = await (await fleet.gateway(ModelSpec(id="qwen"))).get("/fleet/explain/qwem")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "qwen" in answer.json()["error"]["message"]


async def test_decisions_are_listed_by_model_and_number(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="cold"), ModelSpec(id="icy"))
    for model in ("cold", "icy"):
        await gateway.post(ask(model))

    async def kinds(query: str) -> list[tuple[str, str]]:
        listed = (await gateway.get(f"/fleet/decisions{query}")).json()
        return [(entry["kind"], entry["model"]) for entry in listed["data"]]

    whole = [(kind, model) for model in ("cold", "icy") for kind in ("planned", "load_started", "load_finished")]
    assert await kinds("") == whole
    assert await kinds("?model=icy") == whole[3:]
    assert await kinds("?after=4") == whole[4:]
    assert await kinds("?limit=1") == whole[-1:]
    assert await kinds("?limit=0") == []


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=1.5", "limit=", "after=%D9%A3", "limit=" + "9" * 16])
async def test_a_number_that_is_none_is_refused_by_name(fleet: FakeFleet, query: str) -> None:
    answer = await (await fleet.gateway()).get(f"/fleet/decisions?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_events_come_as_they_happen_after_those_that_were_asked_for(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends when the gateway is on its way out."""
    monkeypatch.setattr(fleet_routes, "SILENCE_SECONDS", 0.01)
    await fleet.node()
    gateway = await fleet.gateway()
    feed = gateway.cortex.feed
    feed.publish(1.0, "before", model="m")
    async with gateway._client.stream("GET", f"{gateway.url}/fleet/events?after=0") as answer:
        pieces, heard = answer.aiter_raw(), b""
        while b"before" not in heard:
            heard += await soon(anext(pieces))
        feed.publish(2.0, "since", model="m")
        while b"since" not in heard:
            heard += await soon(anext(pieces))
        gateway.cortex.drain.begun = True
        heard += b"".join([piece async for piece in pieces])

    events = [json.loads(line[5:]) for line in heard.split(b"\n") if line.startswith(b"data:")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert heard.startswith(KEEP_ALIVE)
    assert [(event["seq"], event["kind"]) for event in events] == [(1, "before"), (2, "since")]
    await until(lambda: not feed.listened)


async def test_who_stops_listening_is_forgotten(fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_routes, "SILENCE_SECONDS", 0.01)
    gateway = await fleet.gateway()
    async with gateway._client.stream("GET", f"{gateway.url}/fleet/events"):
        await until(lambda: gateway.cortex.feed.listened)

    await until(lambda: not gateway.cortex.feed.listened)


async def test_a_node_is_added_used_and_removed(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    node = await fleet.node("late")
    body = json.dumps({"name": "late", "endpoint": f"http://127.0.0.1:{node.port}"}).encode()
    added = await send(gateway, "POST", "/fleet/nodes", body)
    await until(lambda: gateway.cortex.poller.view.models)

    assert (added.status_code, added.json()["name"]) == (201, "late")
    assert (await gateway.post(ask())).headers["x-cortex-node"] == "late"
    other = json.dumps({"name": "late", "endpoint": "http://127.0.0.1:9"}).encode()
    again = await send(gateway, "POST", "/fleet/nodes", other)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "node_exists")

    removed = await send(gateway, "DELETE", "/fleet/nodes/late")

    assert removed.json() == {"name": "late", "removed": True}
    assert (await gateway.get("/fleet")).json()["nodes"] == []
    assert (await gateway.post(ask())).status_code == 404


@pytest.mark.parametrize("declared", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_a_node_is_added_only_by_json_that_is_declared_as_such(fleet: FakeFleet, declared: str) -> None:
    """What a browser may send across sites unasked changes nothing."""
    gateway = await fleet.gateway()
    body = b'{"name": "evil", "endpoint": "http://127.0.0.1:9"}'
    answer = await send(gateway, "POST", "/fleet/nodes", body, declared)

    assert answer.status_code in (400, 415)
    assert (await gateway.get("/fleet")).json()["nodes"] == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"name": "x"}', b'{"name": "x", "endpoint": "ftp://x"}', b'{"name": 1, "endpoint": ""}'],
)
async def test_a_node_that_is_not_described_well_is_refused(fleet: FakeFleet, body: bytes) -> None:
    answer = await send(await fleet.gateway(), "POST", "/fleet/nodes", body)

    assert answer.status_code == 400


async def test_a_configured_node_is_not_removed(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    answer = await send(gateway, "DELETE", "/fleet/nodes/a")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "node_is_configured")


async def test_a_node_is_drained_and_put_back(fleet: FakeFleet) -> None:
    await fleet.node("a")
    await fleet.node("b")
    gateway = await fleet.gateway()
    drained = await send(gateway, "POST", "/fleet/nodes/a/drain")

    assert (drained.json()["name"], drained.json()["drained"]) == ("a", True)
    assert {(await gateway.post(ask())).headers["x-cortex-node"] for _ in range(4)} == {"b"}
    back = await send(gateway, "POST", "/fleet/nodes/a/undrain")
    assert back.json()["drained"] is False


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/fleet/nodes/x"), ("POST", "/fleet/nodes/x/drain"), ("POST", "/fleet/nodes/x/undrain")],
)
async def test_what_is_no_node_is_not_found(fleet: FakeFleet, method: str, path: str) -> None:
    answer = await send(await fleet.gateway(), method, path)

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "node_not_found")
