"""`/traces` and `/fleet/history`: what became of requests, for whoever may administer."""

from __future__ import annotations

import json
import time

import pytest

from cortex.core.model_spec import ModelSpec
from fake_fleet import Call, FakeFleet, ask

pytestmark = pytest.mark.anyio

SECRET = "the quick brown fox"


async def test_a_request_is_told_by_the_id_that_its_client_gave(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(stream=True), x_request_id="mine-1")
    await gateway.idle()
    told = (await gateway.get("/traces/mine-1")).json()

    assert (told["id"], told["model"], told["node"], told["outcome"]) == ("mine-1", "m", "a", "answered")
    assert (told["prompt_tokens"], told["completion_tokens"], told["finish_reason"]) == (7, 3, "stop")
    assert [span["name"] for span in told["spans"]][:5] == ["accepted", "waiting", "node's queue", "prefill", "decode"]
    assert abs(told["received"] - time.time()) < 60
    assert told["sent_bytes"] > 0


async def test_a_load_is_told_with_the_stages_that_its_node_told(fleet: FakeFleet) -> None:
    node = await fleet.node("a", other="ready")
    stages = [{"stage": "download", "seconds": 1.5}, {"stage": "weights", "seconds": 0.5}]

    async def load(call: Call) -> None:
        node.models[call.json()["id"]] = "ready"
        await call.respond(200, {"status": "loaded", "model_id": "cold", "stages": stages})

    node.script(load, "/models/load")
    gateway = await fleet.gateway(ModelSpec(id="cold"))
    await gateway.post(ask("cold"), x_request_id="cold-1")
    await gateway.idle()
    told = (await gateway.get("/traces/cold-1")).json()
    names = [span["name"] for span in told["spans"]]

    assert [load["node"] for load in told["loads"]] == ["a"]
    assert [name for name in names if name in ("load", "download", "weights")] == ["load", "download", "weights"]
    assert gateway.cortex.feed.entries(model="cold")[-1]["stages"] == stages


async def test_what_was_said_is_nowhere_and_neither_is_a_key(fleet: FakeFleet) -> None:
    node = await fleet.node()
    refusal = {"error": {"message": SECRET, "type": "invalid_request_error", "code": "engine_says_no"}}
    node.script(lambda call: call.respond(400, refusal))
    gateway = await fleet.gateway()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": SECRET}]}).encode()
    await gateway.post(body, x_request_id="quiet-1", authorization="Bearer ctx_topsecret")
    await gateway.post(json.dumps({"model": "m", "messages": SECRET}).encode(), x_request_id="quiet-2")
    await gateway.idle()
    told = (await gateway.get("/traces/quiet-1")).text + (await gateway.get("/traces/quiet-2")).text
    stored = b"".join(path.read_bytes() for path in gateway.state_directory.glob("traces.db*"))

    assert "quiet-1" in told
    assert "engine_says_no" in told
    assert SECRET not in told
    assert SECRET.encode() not in stored
    assert b"topsecret" not in stored


async def test_the_last_requests_are_listed_and_can_be_asked_for(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    for number in range(3):
        await gateway.post(ask(), x_request_id=f"r{number}")
    await gateway.post(ask("nope"), x_request_id="bad")
    await gateway.idle()

    async def listed(query: str) -> list[str]:
        return [entry["id"] for entry in (await gateway.get(f"/traces{query}")).json()["data"]]

    assert await listed("") == ["bad", "r2", "r1", "r0"]
    assert await listed("?failed") == ["bad"]
    assert await listed("?failed=false&limit=1") == ["bad"]
    assert await listed("?model=m&limit=2&since=1h") == ["r2", "r1"]
    assert await listed("?key=nobody") == []


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=x", "limit"), ("slow=maybe", "slow"), ("since=noon", "since")]
)
async def test_a_question_that_cannot_be_read_is_refused_by_name(fleet: FakeFleet, query: str, param: str) -> None:
    gateway = await fleet.gateway()
    answer = await gateway.get(f"/traces?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_a_request_that_is_not_kept_is_not_found(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()

    assert (await gateway.get("/traces/never")).status_code == 404


async def test_each_minute_has_its_figures(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask())
    await gateway.post(ask("nope"))
    await gateway.idle()
    minutes = (await gateway.get("/fleet/history?since=5m")).json()["data"]

    assert sum(minute["requests"] for minute in minutes) == 2
    assert sum(minute["errors"] for minute in minutes) == 1
    assert next(minute["ttft_p50_seconds"] for minute in minutes if minute["completion_tokens"]) > 0


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("offered", "passed"), [(TRACEPARENT, TRACEPARENT), ("00-nothing-of-the-kind", None)])
async def test_a_traceparent_goes_to_the_node_the_log_and_the_story_if_it_is_one(
    fleet: FakeFleet, offered: str, passed: str | None
) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(), x_request_id="traced-1", traceparent=offered)
    await gateway.idle()
    told = (await gateway.get("/traces/traced-1")).json()
    asked = dict(node.asked()[0].headers)

    assert asked.get("traceparent") == passed
    assert asked["x-request-id"] == "traced-1"
    assert fleet.events("request_finished")[0].get("traceparent") == passed
    assert told.get("traceparent") == passed
