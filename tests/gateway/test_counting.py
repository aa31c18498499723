"""Which node counts tokens, and when a model has to be loaded for it."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.core.model_spec import ModelSpec
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.gateway.counting import nodes_to_ask
from cortex.wire.envelopes import MESSAGES
from cortex.wire.json import decode_any, encode
from fake_fleet import Call, FakeFleet, FakeNode, Gateway

M = ModelSpec(id="m")
TOKENIZE = "/tokenize"
BODY = encode({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


def node(name: str, state: str | None = None, **fields: Any) -> NodeView:
    replicas = (ReplicaView("m", name, state),) if state else ()  # type: ignore[arg-type]
    return NodeView(name, "http://x", **{"healthy": True, "engines": ("llamacpp",), "replicas": replicas, **fields})


def asked(*nodes: NodeView, spec: ModelSpec | None = M) -> list[str]:
    return list(nodes_to_ask(FleetView.of(nodes), "m", spec))


def test_those_that_serve_the_model_are_asked_first() -> None:
    assert asked(node("a"), node("b", "loading"), node("c", "ready")) == ["c", "a", "b"]


def test_a_node_that_could_not_run_the_model_is_not_asked() -> None:
    unable = [
        node("a", engines=("simulated",)),
        node("b", healthy=False),
        node("c", drained=True),
        node("d", leaving=True),
    ]

    assert asked(*unable, node("e")) == ["e"]


def test_the_catalogue_says_where_a_model_may_run() -> None:
    assert asked(node("a"), node("b"), spec=ModelSpec(id="m", nodes=("b",))) == ["b"]


def test_a_model_that_is_not_in_the_catalogue_is_counted_where_it_runs() -> None:
    assert asked(node("a", "ready"), node("b"), spec=None) == ["a"]


@pytest.mark.anyio
class TestFleet:
    """A gateway before nodes that count or do not."""

    async def count(self, gateway: Gateway) -> Any:
        answer = await gateway.post(BODY, f"{MESSAGES}/count_tokens")
        return answer.status_code, decode_any(answer.content)

    async def counting(self, fleet: FakeFleet, name: str, *answer: Any, model: str = "other") -> FakeNode:
        node = await fleet.node(name, **{model: "ready"})

        async def script(call: Call) -> None:
            await (call.respond(200, {"tokens": [], "count": 7}) if not answer else call.refuse(*answer))

        node.script(script, TOKENIZE)
        return node

    async def test_a_cold_model_is_counted_without_a_load_where_its_files_are(self, fleet: FakeFleet) -> None:
        empty = await self.counting(fleet, "a", 409, "model_not_cached")
        broken = await self.counting(fleet, "b", 500, "engine_error")
        has = await self.counting(fleet, "c")
        spec = ModelSpec(id="m", source="hf:org/m", context=512, options={"slots": 2})

        assert await self.count(await fleet.gateway(spec)) == (200, {"input_tokens": 7})
        assert [len(node.asked(TOKENIZE)) for node in (empty, broken, has)] == [1, 1, 1]
        assert not any(node.asked("/models/load") for node in fleet.nodes)
        asked = has.asked(TOKENIZE)[0].json()
        assert asked["spec"] == {
            "id": "m",
            "source": "hf:org/m",
            "engine": "llamacpp",
            "context": 512,
            "options": {"slots": 2},
        }
        assert asked["model"] == "m"

    async def test_a_replica_counts_without_giving_up_a_slot(self, fleet: FakeFleet) -> None:
        node = await self.counting(fleet, "a", model="m")
        gateway = await fleet.gateway(M)
        flights: list[Any] = []

        async def script(call: Call) -> None:
            flights.append(dict(gateway.cortex.steward.reconciler.doors.flights))
            await call.respond(200, {"tokens": [], "count": 7})

        node.script(script, TOKENIZE)

        assert await self.count(gateway) == (200, {"input_tokens": 7})
        assert flights == [{}]

    async def test_a_request_that_is_at_fault_is_not_taken_elsewhere(self, fleet: FakeFleet) -> None:
        await self.counting(fleet, "a", 400, "invalid_type", "messages: wrong")
        other = await self.counting(fleet, "b")
        status, body = await self.count(await fleet.gateway(M))

        assert (status, body["error"]["message"]) == (400, "messages: wrong")
        assert not other.asked(TOKENIZE)

    async def test_a_node_that_hangs_up_is_passed_over(self, fleet: FakeFleet) -> None:
        gone = await self.counting(fleet, "a")

        async def hang_up(call: Call) -> None:
            call.hang_up()

        gone.script(hang_up, TOKENIZE)
        await self.counting(fleet, "b")

        assert await self.count(await fleet.gateway(M)) == (200, {"input_tokens": 7})
