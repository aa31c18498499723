"""What the run loop decides, done to nodes that answer well, badly or not at all; and what clients hear meanwhile."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.fleet.reconciler import MAX_TRIES
from cortex.fleet.situation import UNKNOWN, Need
from cortex.gateway import inference, steward
from cortex.gateway.steward import WaitingRequest, need_of
from cortex.serving import event_stream
from cortex.wire.node_api import EstimateAnswer
from cortex.wire.sse import KEEP_ALIVE
from fake_fleet import GIB, STREAM, WHOLE, Call, FakeFleet, FakeNode, Gateway, Script, ask, soon, until

pytestmark = pytest.mark.anyio

COLD = ModelSpec(id="cold", source="hf:org/cold:Q4", context=2048, vram_mb=100, options={"slots": 2})
LOAD, UNLOAD, ESTIMATE = "/models/load", "/models/unload", "/models/estimate"


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "TICK_SECONDS", 0.01)


class Gate:
    """A call to a node that goes on when it is told to."""

    def __init__(self, node: FakeNode, path: str = LOAD) -> None:
        self._go, self._open = node.scripts[path], asyncio.Event()
        node.script(self._wait, path)

    async def _wait(self, call: Call) -> None:
        await self._open.wait()
        await self._go(call)

    def open(self) -> None:
        self._open.set()


def weigh(node: FakeNode, **gib: int) -> None:
    """Have *node* know what models take, and have that much less free while they are there."""
    total, health = node.free_bytes, node.health

    def weighed() -> dict[str, Any]:
        there = [name for name, state in node.models.items() if state in ("ready", "draining")]
        node.free_bytes = total - sum(gib[name] * GIB for name in there)
        answer = health()
        for model in answer["models"]:
            if model["id"] in there:
                model.update(bytes_by_device={0: gib[model["id"]] * GIB}, idle_seconds=100.0)
        return answer

    async def estimate(call: Call) -> None:
        name = call.json()["id"]
        await call.respond(
            200, {"model_id": name, "devices": [0], "bytes_per_device": {0: gib[name] * GIB}, "basis": "measured"}
        )

    node.script(lambda call: call.respond(200, weighed()), "/health")
    node.script(estimate, ESTIMATE)


def refusing(status: int, code: str | None, **headers: str) -> Script:
    return lambda call: call.refuse(status, code, "why", **headers)


async def requests(gateway: Gateway, count: int, body: bytes) -> list[asyncio.Task[bytes]]:
    """Send *count* requests and return once all of them wait; each task gives its answer's body."""

    async def one() -> bytes:
        return (await gateway.post(body)).content

    before = gateway.state.total_requests
    tasks = [asyncio.ensure_future(one()) for _ in range(count)]
    await until(lambda: gateway.state.total_requests == before + count)
    return tasks


def flights(gateway: Gateway) -> dict[tuple[str, str], int]:
    return dict(gateway.cortex.steward.reconciler.doors.flights)


# loads ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_many_requests_for_a_cold_model_are_one_load(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    tasks = await requests(gateway, 10, ask("cold", stream=stream))
    await node.call(LOAD)
    gate.open()
    answers = await soon(asyncio.gather(*tasks))

    assert set(answers) == {STREAM if stream else WHOLE}
    assert len(node.asked(LOAD)) == 1
    assert len(node.asked()) == 10
    assert await gateway.sample("cortex_cold_starts_total", model="cold", node="a") == 1
    assert await gateway.sample("cortex_load_seconds_count", model="cold", node="a") == 1
    assert flights(gateway) == {}


async def test_a_node_is_told_all_that_the_catalogue_says(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(COLD)
    await gateway.post(ask("cold"))
    said = {
        "id": "cold",
        "source": "hf:org/cold:Q4",
        "engine": "llamacpp",
        "context": 2048,
        "vram_mb": 100,
        "options": {"slots": 2},
    }

    assert (await node.call(ESTIMATE)).json() == said
    assert (await node.call(LOAD)).json() == said


async def test_a_node_is_told_the_devices_that_were_decided_on(fleet: FakeFleet) -> None:
    node = await fleet.node()
    weigh(node, m=1, cold=2)
    gateway = await fleet.gateway(COLD)
    await gateway.post(ask("cold"))

    assert (await node.call(LOAD)).json()["devices"] == [0]


async def test_a_load_outlives_the_client_that_caused_it(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    client = await gateway.connect(ask("cold"))
    await node.call(LOAD)
    client.hang_up()
    await gateway.idle()
    gate.open()
    await until(lambda: "cold" in gateway.cortex.poller.view.models)
    answer = await gateway.post(ask("cold"))

    assert answer.status_code == 200
    assert len(node.asked(LOAD)) == 1
    assert len(node.asked()) == 1


@pytest.mark.parametrize(
    ("refusal", "times"),
    [(refusing(503, "insufficient_memory"), MAX_TRIES), (refusing(503, "shutting_down"), 1), (Call.reset, 1)],
)
async def test_a_node_that_cannot_take_a_model_is_followed_by_the_next(
    fleet: FakeFleet, refusal: Script, times: int
) -> None:
    async def refuse(call: Call) -> None:
        if (result := refusal(call)) is not None:
            await result

    a, b = await fleet.node("a"), await fleet.node("b")
    a.script(refuse, LOAD)
    gateway = await fleet.gateway(COLD)
    answer = await gateway.post(ask("cold"))

    assert answer.headers["x-cortex-node"] == "b"
    assert (len(a.asked(LOAD)), len(b.asked(LOAD))) == (times, 1)


async def test_the_node_with_the_most_room_is_asked_first(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    b.free_bytes *= 2
    gateway = await fleet.gateway(COLD)

    assert (await gateway.post(ask("cold"))).headers["x-cortex-node"] == "b"
    assert a.asked(LOAD) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_load_that_failed_fails_for_everyone_who_waits(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node()
    gateway, going = await fleet.gateway(COLD), asyncio.Event()

    async def refuse(call: Call) -> None:
        await going.wait()
        await call.refuse(503, "model_load_failed", "the file is damaged", x_should_retry="false")

    node.script(refuse, LOAD)
    posts = [asyncio.ensure_future(gateway.post(ask("cold", stream=stream))) for _ in range(3)]
    await until(lambda: gateway.state.total_requests == 3)
    await node.call(LOAD)
    going.set()
    answers = await soon(asyncio.gather(*posts))

    for answer in answers:
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        assert answer.json()["error"]["code"] == "model_load_failed"
        assert "the file is damaged" in answer.json()["error"]["message"]
    assert len(node.asked(LOAD)) == 1
    assert await gateway.sample("cortex_load_failures_total", model="cold", node="a", code="model_load_failed") == 1


async def test_a_fleet_without_room_says_when_to_come_back(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(refusing(503, "insufficient_memory", retry_after="30"), LOAD)
    answer = await (await fleet.gateway(COLD)).post(ask("cold"))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"]["code"] == "insufficient_memory"


async def test_a_failed_load_is_tried_anew_by_the_next_request(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(COLD)
    node.script(refusing(503, "model_load_failed"), LOAD)
    failed = await gateway.post(ask("cold"))
    node.script(node.load, LOAD)

    assert (failed.status_code, (await gateway.post(ask("cold"))).status_code) == (503, 200)


async def test_a_node_that_hangs_and_is_taken_for_dead_is_followed_by_the_next(fleet: FakeFleet) -> None:
    """A machine that loses its power closes no connection: that it is taken for dead must end the wait."""
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway = await fleet.gateway(COLD, misses=1, poll_timeout_seconds=0.05)
    a.script(Call.caller_left, LOAD)
    (task,) = await requests(gateway, 1, ask("cold"))
    await a.call(LOAD)
    a.script(Call.caller_left, "/health")

    assert await soon(task) == WHOLE
    assert len(b.asked(LOAD)) == 1


async def test_a_node_that_is_removed_while_it_loads_is_followed_by_the_next(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway = await fleet.gateway(COLD)
    a.script(Call.caller_left, LOAD)
    (task,) = await requests(gateway, 1, ask("cold"))
    await a.call(LOAD)
    gateway.cortex.poller.remove("a")

    assert await soon(task) == WHOLE
    assert len(b.asked(LOAD)) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "cold", "messages": []}',
        ask("cold", temperature=9),
        ask("cold", chat_template="x"),
        ask("cold", n="3"),
    ],
)
@pytest.mark.parametrize("state", ["unloaded", "loading"])
async def test_a_bad_request_causes_no_load(fleet: FakeFleet, body: bytes, state: str) -> None:
    node = await fleet.node("a", cold=state)
    answer = await (await fleet.gateway(COLD)).post(body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"]
    assert node.asked(LOAD) == []


@pytest.mark.parametrize(("becomes", "status"), [("ready", 200), ("failed", 503)])
async def test_a_load_that_somebody_else_asked_for_is_followed(fleet: FakeFleet, becomes: str, status: int) -> None:
    """The catalogue does not have the model: what its files are is not ours to guess."""
    node = await fleet.node("a", stranger="loading")
    gateway = await fleet.gateway()
    asking = asyncio.ensure_future(gateway.post(ask("stranger")))
    await node.call("/health", len(node.asked("/health")) + 2)
    node.models["stranger"] = becomes

    assert (await soon(asking)).status_code == status
    assert node.asked(LOAD) == []


async def test_what_is_to_be_resident_is_loaded_unasked(fleet: FakeFleet) -> None:
    node = await fleet.node()
    await fleet.gateway(ModelSpec(id="cold", min_resident=1))
    await node.call(LOAD)

    assert (await node.call(LOAD)).json()["id"] == "cold"


# estimates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [refusing(404, "not_found"), refusing(500, None), Call.reset], ids=str)
async def test_a_model_is_tried_where_the_node_cannot_tell_what_it_takes(fleet: FakeFleet, answer: Script) -> None:
    async def estimate(call: Call) -> None:
        if (result := answer(call)) is not None:
            await result

    node = await fleet.node()
    node.script(estimate, ESTIMATE)
    gateway = await fleet.gateway(COLD)

    assert (await gateway.post(ask("cold"))).status_code == 200
    assert len(node.asked(ESTIMATE)) == 1
    assert "devices" not in (await node.call(LOAD)).json()


async def test_an_estimate_that_is_not_one_is_none(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(200, b"<html>"), ESTIMATE)
    gateway = await fleet.gateway(COLD)

    assert (await gateway.post(ask("cold"))).status_code == 200


@pytest.mark.parametrize(
    ("answer", "need"),
    [
        (EstimateAnswer(model_id="m"), UNKNOWN),
        (EstimateAnswer(model_id="m", bytes_per_device={0: 5}, basis="unknown"), UNKNOWN),
        (EstimateAnswer(model_id="m", bytes_per_device={}, basis="measured"), UNKNOWN),
        (EstimateAnswer(model_id="m", bytes_per_device={3: 5, 1: 9}, basis="estimate"), Need((9, 5), "estimate")),
    ],
)
def test_the_largest_share_of_an_estimate_comes_first(answer: EstimateAnswer, need: Need) -> None:
    assert need_of(answer) == need


# making room ----------------------------------------------------------------------------------------------------------


async def swap(fleet: FakeFleet) -> tuple[FakeNode, Gateway]:
    """A node where `m` is ready and `cold` fits only in its place."""
    node = await fleet.node()
    weigh(node, m=6, cold=6)
    return node, await fleet.gateway(COLD, ModelSpec(id="m"))


async def test_what_is_idle_makes_room_and_the_log_and_the_feed_say_why(fleet: FakeFleet) -> None:
    node, gateway = await swap(fleet)
    answer = await gateway.post(ask("cold"))
    kinds = ["planned", "evicted", "load_started", "load_finished"]
    entries = [entry for entry in gateway.cortex.feed.entries() if entry["kind"] in kinds]

    assert answer.status_code == 200
    assert [call.path for call in node.calls if call.path in (LOAD, UNLOAD)] == [UNLOAD, LOAD]
    assert [entry["kind"] for entry in entries] == kinds
    assert [(e["model"], e["node"], e["reason"]) for e in entries[:2]] == [
        ("cold", "a", "fits once m is gone"),
        ("m", "a", "makes room for cold"),
    ]
    assert [line["reason"] for kind in kinds for line in fleet.events(kind)] == [e["reason"] for e in entries]
    assert abs(entries[0]["time"] - time.time()) < 60
    assert await gateway.sample("cortex_evictions_total", model="m", node="a", reason="room") == 1


async def test_the_memory_is_seen_to_be_back_before_the_load(fleet: FakeFleet) -> None:
    node, gateway = await swap(fleet)
    held = asyncio.Event()

    async def unload(call: Call) -> None:
        node.models["m"] = "draining"
        await call.respond(200, {})
        await held.wait()
        node.models.pop("m")

    node.script(unload, UNLOAD)
    (task,) = await requests(gateway, 1, ask("cold"))
    await node.call(UNLOAD)
    await node.call("/health", len(node.asked("/health")) + 3)
    assert node.asked(LOAD) == []
    held.set()

    assert await soon(task) == WHOLE


async def test_a_victim_that_its_node_does_not_know_any_more_is_gone(fleet: FakeFleet) -> None:
    node, gateway = await swap(fleet)

    async def gone(call: Call) -> None:
        node.models.pop("m")
        await call.refuse(404, "model_not_found")

    node.script(gone, UNLOAD)

    assert (await gateway.post(ask("cold"))).status_code == 200
    assert fleet.events("unload_failed") == []


async def test_an_unload_that_fails_is_told_and_the_replica_serves_on(fleet: FakeFleet) -> None:
    node, gateway = await swap(fleet)
    node.script(refusing(500, "engine_failed"), UNLOAD)
    tasks = await requests(gateway, 1, ask("cold"))
    await until(lambda: fleet.events("unload_failed"))

    assert (await gateway.post(ask("m"))).status_code == 200
    assert "why" in fleet.events("unload_failed")[0]["reason"]
    tasks[0].cancel()


# those who wait -------------------------------------------------------------------------------------------------------


async def full(fleet: FakeFleet) -> tuple[Gateway, list[WaitingRequest]]:
    """A gateway whose model `m` has all four slots taken, and the tickets that have them."""
    await fleet.node()
    gateway = await fleet.gateway()
    tickets = [WaitingRequest("m", time.monotonic()) for _ in range(4)]
    for ticket in tickets:
        await gateway.cortex.steward.replica_for(ticket)
    return gateway, tickets


@pytest.mark.parametrize("leaves_first", [True, False])
async def test_a_slot_given_to_a_client_that_leaves_at_that_moment_is_given_back(
    fleet: FakeFleet, leaves_first: bool
) -> None:
    gateway, _ = await full(fleet)
    chief = gateway.cortex.steward
    waiting = asyncio.ensure_future(chief.replica_for(WaitingRequest("m", time.monotonic())))
    await until(lambda: chief.reconciler.doors.waits("m"))
    if leaves_first:
        waiting.cancel()
    chief.finished(("a", "m"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: flights(gateway) == {("a", "m"): 3})

    assert not chief.reconciler.doors.waits("m")


async def test_a_slot_given_back_goes_to_the_next(fleet: FakeFleet) -> None:
    gateway, _ = await full(fleet)
    chief = gateway.cortex.steward
    first, second = (asyncio.ensure_future(chief.replica_for(WaitingRequest("m", time.monotonic()))) for _ in range(2))
    await until(lambda: len(chief.reconciler.doors.waiting("m")) == 2)
    chief.finished(("a", "m"))
    first.cancel()

    assert (await soon(second)).replica.node == "a"
    assert flights(gateway) == {("a", "m"): 4}


async def test_a_client_that_leaves_as_it_is_refused_is_gone_without_a_trace(fleet: FakeFleet) -> None:
    gateway, _ = await full(fleet)
    chief, ticket = gateway.cortex.steward, WaitingRequest("m", time.monotonic())
    waiting = asyncio.ensure_future(chief.replica_for(ticket))
    await until(lambda: chief.reconciler.doors.waits("m"))
    chief.reconciler.leave(ticket)
    chief.refuse(ticket, CortexError("no"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert flights(gateway) == {("a", "m"): 4}


async def test_a_client_that_leaves_the_queue_frees_its_place(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node, "/v1/chat/completions"), await fleet.gateway()
    tasks = await requests(gateway, 4, ask())
    await node.call(number=4)
    client = await gateway.connect(ask())
    doors = gateway.cortex.steward.reconciler.doors
    await until(lambda: doors.waits("m"))
    client.hang_up()
    await until(lambda: not doors.waits("m"))
    gate.open()
    await soon(asyncio.gather(*tasks))
    await gateway.idle()

    assert flights(gateway) == {}


async def comments(gateway: Gateway, gate: Gate, body: bytes, until_heard: bytes) -> list[bytes]:
    """Return what a streaming client hears before its answer; the gate opens once *until_heard* is among it."""
    async with gateway.stream(body) as answer:
        pieces, heard = answer.aiter_raw(), b""
        while until_heard not in heard:
            heard += await soon(anext(pieces))
        gate.open()
        heard += b"".join([piece async for piece in pieces])
    assert heard.endswith(STREAM)
    return heard.removesuffix(STREAM).replace(KEEP_ALIVE, b"").split(b"\n\n")[:-1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(inference, "EventStream", partial(event_stream.EventStream, every_seconds=0.02))


@pytest.mark.usefixtures("impatient")
async def test_those_who_wait_for_a_load_hear_how_far_it_is(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    progress = {"stage": "weights", "percent": 42}
    health = node.health()
    health["models"].append({"id": "cold", "engine": "llamacpp", "status": "loading", "progress": progress})

    async def tell(call: Call) -> None:
        loads = node.asked(LOAD) and "cold" not in node.models
        await call.respond(200, health if loads else node.health())

    node.script(tell, "/health")
    heard = await comments(gateway, gate, ask("cold", stream=True), b"weights 42%")

    assert all(line.startswith(b": loading cold on a: ") for line in heard)


@pytest.mark.usefixtures("impatient")
async def test_those_who_wait_for_a_slot_hear_their_place(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node, "/v1/chat/completions"), await fleet.gateway()
    tasks = await requests(gateway, 5, ask())
    heard = await comments(gateway, gate, ask(stream=True), b"waiting: place 2 of 2")
    await soon(asyncio.gather(*tasks))

    assert heard[0].startswith(b": waiting: place 2 of 2, about ")
