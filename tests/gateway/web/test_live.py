"""The stream that the dashboard listens to: the whole fleet, then what changes, for as long as one may listen."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cortex.core.model_spec import ModelSpec
from cortex.gateway.config import KeySettings
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key, load_keys
from cortex.gateway.keys.secret import new_key
from cortex.gateway.web import live
from fake_fleet import FakeFleet, Gateway, soon, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STEP_SECONDS", 0.01)
    monkeypatch.setattr(live, "SILENCE_SECONDS", 0.02)


@asynccontextmanager
async def listening(gateway: Gateway, **headers: str) -> AsyncGenerator[AsyncGenerator[dict[str, Any], None], None]:
    async with gateway._client.stream("GET", f"{gateway.url}/fleet/live", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> AsyncGenerator[dict[str, Any], None]:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

        yield messages()


async def heard(messages: AsyncGenerator[dict[str, Any], None], kind: str, key: str = "kind") -> dict[str, Any]:
    """Return the next message of *kind* that says something of *key*."""
    while True:
        message = await soon(anext(messages))
        if message["kind"] == kind and message.get(key):
            return message


async def test_the_whole_fleet_comes_first(fleet: FakeFleet) -> None:
    await fleet.node("a")
    gateway = await fleet.gateway(ModelSpec(id="cold", aliases=("chilly",), priority=7))
    gateway.cortex.feed.publish(1.0, "evicted", model="m")
    async with listening(gateway) as messages:
        whole = await soon(anext(messages))

    assert whole["kind"] == "fleet"
    assert [(node["name"], node["healthy"]) for node in whole["nodes"]] == [("a", True)]
    assert [(model["id"], model["aliases"], model["priority"]) for model in whole["models"]] == [
        ("cold", ["chilly"], 7)
    ]
    assert [entry["kind"] for entry in whole["entries"]] == ["evicted"]


async def test_what_changes_on_a_node_is_told_and_nothing_else(fleet: FakeFleet) -> None:
    a = await fleet.node("a")
    await fleet.node("b")
    gateway = await fleet.gateway(poll_seconds=0.02)
    async with listening(gateway) as messages:
        await soon(anext(messages))
        a.models["fresh"] = "loading"
        changed = await heard(messages, "changed", "nodes")

    assert [node["name"] for node in changed["nodes"]] == ["a"]
    assert [replica["model"] for replica in changed["nodes"][0]["replicas"]] == ["m", "fresh"]
    assert "models" not in changed


async def test_a_node_that_dies_one_that_comes_and_one_that_is_removed_are_told(fleet: FakeFleet) -> None:
    a = await fleet.node("a")
    gateway = await fleet.gateway(poll_seconds=0.02, misses=1)
    async with listening(gateway) as messages:
        await soon(anext(messages))
        await a.stop()
        dead = await heard(messages, "changed", "nodes")
        b = await fleet.node("b")
        gateway.cortex.add_node("b", f"http://127.0.0.1:{b.port}")
        come = await heard(messages, "changed", "nodes")
        gateway.cortex.remove_node("b")
        gone = await heard(messages, "changed", "removed")

    assert (dead["nodes"][0]["name"], dead["nodes"][0]["healthy"]) == ("a", False)
    assert come["nodes"][0]["name"] == "b"
    assert gone["removed"] == ["b"]


async def test_readings_of_devices_are_told_as_they_are(fleet: FakeFleet) -> None:
    node = await fleet.node("a")
    health = node.health()
    health["devices"][0].update(utilization_pct=83.0, temp_c=61.0)
    node.script(lambda call: call.respond(200, health), "/health")
    async with listening(await fleet.gateway()) as messages:
        device = (await soon(anext(messages)))["nodes"][0]["devices"][0]

    assert (device["utilization_percent"], device["temperature_celsius"]) == (83.0, 61.0)


async def test_decisions_and_requests_are_among_what_is_told(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    async with listening(gateway) as messages:
        await soon(anext(messages))
        gateway.cortex.feed.publish(2.0, "planned", model="m")
        entry = await heard(messages, "planned")

    assert entry["model"] == "m"
    await until(lambda: not gateway.cortex.feed.listened)


async def test_the_stream_ends_when_its_key_is_revoked(fleet: FakeFleet, tmp_path: Path) -> None:
    settings, secret = KeySettings(file=str(tmp_path / "keys.toml")), new_key()
    add_key(tmp_path / "keys.toml", KeyEntry(name="ada", sha256=secret.digest.hex(), scope="admin"))
    gateway = await fleet.gateway(keys=settings)
    async with listening(gateway, authorization=f"Bearer {secret.reveal()}") as messages:
        await soon(anext(messages))
        (tmp_path / "keys.toml").write_text("")
        await gateway.cortex.access.take(load_keys(tmp_path / "keys.toml"))
        rest = [message async for message in messages]

    assert rest == []


async def test_the_stream_ends_with_the_gateway(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    async with listening(gateway) as messages:
        await soon(anext(messages))
        gateway.cortex.drain.begun = True
        rest = [message async for message in messages]

    assert rest == []
