"""What the gateway believes of its nodes, from what they answer, and from what they do not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest

from cortex.core.model_spec import ModelSpec
from fake_fleet import Call, FakeFleet, FakeNode, Gateway, ask, soon, until

pytestmark = pytest.mark.anyio


async def polled(fleet: FakeFleet, **limits: float) -> tuple[FakeNode, Gateway]:
    node = await fleet.node()
    return node, await fleet.gateway(**limits)


def view_of(gateway: Gateway, name: str = "a") -> Any:
    return gateway.cortex.poller.view.node(name)


async def silent(call: Call) -> None:
    call.hang_up()


async def test_a_node_is_seen_as_it_describes_itself(fleet: FakeFleet) -> None:
    node = await fleet.node("a", m="ready", n="loading")
    gateway = await fleet.gateway()
    view = view_of(gateway)

    assert (view.healthy, view.reason, view.boot_id, view.engines) == (True, "", "boot-1", ("llamacpp",))
    assert [(room.index, room.kind, room.free_bytes) for room in view.rooms] == [(0, "cpu", node.free_bytes)]
    assert [(replica.model, replica.state, replica.slots) for replica in view.replicas] == [
        ("m", "ready", 4),
        ("n", "loading", 4),
    ]


async def test_three_misses_in_a_row_make_a_node_unhealthy_and_one_answer_makes_it_healthy(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet)
    healthy, answer = [], node.scripts["/health"]
    for script in (silent, silent, answer, silent, silent, silent, answer):
        node.script(script, "/health")
        await gateway.cortex.poller.poll("a")
        healthy.append(view_of(gateway).healthy)

    assert healthy == [True, True, True, True, True, False, True]
    assert [line["misses"] for line in fleet.events("node_lost")] == [3]


async def test_a_node_taken_for_dead_loses_its_streams_at_once(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet, misses=1)
    node.script(Call.caller_left)
    answer = asyncio.ensure_future(gateway.post(ask()))
    await node.call()
    node.script(silent, "/health")
    await gateway.cortex.poller.poll("a")

    assert (await soon(answer)).status_code in (502, 503)
    assert (await gateway.get("/health")).json()["status"] == "degraded"


async def test_a_node_that_is_silent_counts_as_one_that_misses(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet, misses=1, poll_timeout_seconds=0.05)
    node.script(Call.caller_left, "/health")
    await gateway.cortex.poller.poll("a")

    assert not view_of(gateway).healthy
    assert "Timeout" in view_of(gateway).reason


@pytest.mark.parametrize("path", ["/health", "/discovery"])
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b"null", b'{"status":"\xff"}', b'{"x":' + b"[" * 100_000, b"\x1f\x8b\x08", b"1e999"],
    ids=["empty", "html", "list", "keys", "null", "utf8", "deep", "binary", "number"],
)
async def test_nonsense_is_a_miss_and_never_the_end_of_the_poller(fleet: FakeFleet, body: bytes, path: str) -> None:
    node = await fleet.node()
    scripts = dict(node.scripts)
    node.script(lambda call: call.respond(200, body), path)
    gateway = await fleet.gateway(misses=1, poll_seconds=0.01)
    await until(lambda: len(node.asked(path)) > 2)

    assert not view_of(gateway).healthy
    node.scripts = scripts
    await until(lambda: view_of(gateway).healthy)


@pytest.mark.parametrize("status", [204, 302, 401, 404, 500])
async def test_a_status_that_is_not_200_is_a_miss(fleet: FakeFleet, status: int) -> None:
    node, gateway = await polled(fleet, misses=1)
    node.script(lambda call: call.respond(status, b"", location="/x"), "/health")
    await gateway.cortex.poller.poll("a")

    assert not view_of(gateway).healthy


async def test_keys_that_are_not_known_are_no_reason_to_distrust_a_node(fleet: FakeFleet) -> None:
    node = await fleet.node()

    def newer(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{key: newer(inner) for key, inner in value.items()}, "from_the_future": {"x": [1, None]}}
        return [newer(inner) for inner in value] if isinstance(value, list) else value

    node.script(lambda call: call.respond(200, newer(node.health())), "/health")
    node.script(lambda call: call.respond(200, newer(node.discovery())), "/discovery")
    gateway = await fleet.gateway()

    assert view_of(gateway).healthy
    assert (await gateway.post(ask())).status_code == 200


async def test_a_silent_node_delays_no_other(fleet: FakeFleet) -> None:
    slow, quick = await fleet.node("slow"), await fleet.node("quick")
    gateway = await fleet.gateway(poll_seconds=0.01, poll_timeout_seconds=5)
    slow.script(Call.caller_left, "/health")
    await until(lambda: slow.asked("/health")[1:])
    asked = len(quick.asked("/health"))
    await until(lambda: len(quick.asked("/health")) > asked + 5)

    assert len(slow.asked("/health")) == 2
    assert view_of(gateway, "quick").healthy


async def test_a_node_that_is_silent_from_the_start_delays_the_start_by_a_bound(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.gateway.app.FIRST_ROUND_SECONDS", 0.05)
    slow, _ = await fleet.node("slow"), await fleet.node("quick")
    slow.script(Call.caller_left, "/health")
    with anyio.fail_after(1):
        gateway = await fleet.gateway(poll_timeout_seconds=5)

    assert view_of(gateway, "quick").healthy
    assert view_of(gateway, "slow").reason == "not asked yet"


async def test_a_node_that_was_started_again_is_discovered_again(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet)
    await gateway.cortex.poller.poll("a")
    assert len(node.asked("/discovery")) == 1

    node.boot_id = "boot-2"
    node.script(lambda call: call.respond(200, {**node.discovery(), "engines": ["llamacpp", "vllm"]}), "/discovery")
    await gateway.cortex.poller.poll("a")

    assert (view_of(gateway).boot_id, view_of(gateway).engines) == ("boot-2", ("llamacpp", "vllm"))


async def test_a_draining_node_gets_nothing_new_and_ends_what_it_has(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway, going = await fleet.gateway(), asyncio.Event()

    async def late(call: Call) -> None:
        await going.wait()
        await call.answer()

    a.script(late)
    begun = asyncio.ensure_future(gateway.post(ask(stream=True)))
    await a.call()
    a.status = "draining"
    for _ in range(4):
        await gateway.cortex.poller.poll("a")
    second = await gateway.post(ask())
    going.set()
    first = await soon(begun)

    assert view_of(gateway).reason == "is shutting down"
    assert (first.status_code, first.headers["x-cortex-node"]) == (200, "a")
    assert second.headers["x-cortex-node"] == "b"
    assert (len(a.asked()), len(b.asked())) == (1, 1)


async def test_a_draining_node_that_dies_loses_its_streams_as_any_other(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet, misses=2)
    node.script(Call.caller_left)
    answer = asyncio.ensure_future(gateway.post(ask()))
    await node.call()
    node.status = "draining"
    await gateway.cortex.poller.poll("a")
    node.script(silent, "/health")
    for _ in range(2):
        await gateway.cortex.poller.poll("a")

    assert (await soon(answer)).status_code in (502, 503)


async def test_a_late_answer_does_not_overwrite_a_newer_one(fleet: FakeFleet) -> None:
    """Polls overlap: the one that follows a load must not be undone by one that was asked before it."""
    node, gateway = await polled(fleet)
    old, late = json.dumps({**node.health(), "models": []}).encode(), asyncio.Event()
    answer = node.scripts["/health"]

    async def answer_late(call: Call) -> None:
        await late.wait()
        await call.respond(200, old)

    node.script(answer_late, "/health")
    first = asyncio.ensure_future(gateway.cortex.poller.poll("a"))
    await node.call("/health", 2)
    node.script(answer, "/health")
    await gateway.cortex.poller.poll("a")
    late.set()
    await soon(first)

    assert [replica.model for replica in view_of(gateway).replicas] == ["m"]


async def test_requests_that_fail_together_are_one_miss(fleet: FakeFleet) -> None:
    node, gateway = await polled(fleet)
    node.script(silent, "/health")
    await asyncio.gather(*(gateway.cortex.poller.poll("a") for _ in range(5)))
    assert view_of(gateway).healthy


async def test_a_node_that_failed_a_request_is_asked_again_without_a_wait(fleet: FakeFleet) -> None:
    """The request goes elsewhere meanwhile, whether the node answers that question or not."""
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway = await fleet.gateway(poll_timeout_seconds=30)
    a.script(silent)
    a.script(Call.caller_left, "/health")
    answer = await asyncio.wait_for(gateway.post(ask()), 1)

    assert answer.headers["x-cortex-node"] == "b"
    await a.call("/health", 2)
    assert len(b.asked("/health")) == 1


async def test_many_loads_leave_the_polls_alone(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(Call.caller_left, "/models/load")
    specs = [ModelSpec(id=f"cold-{n}") for n in range(120)]
    gateway = await fleet.gateway(*specs, misses=1)
    clients = [await gateway.connect(ask(spec.id)) for spec in specs]
    await node.call("/models/load", 100)
    await gateway.cortex.poller.poll("a")

    assert view_of(gateway).healthy
    assert len(clients) == 120
