"""Cold starts: one load however many wait, that outlives who asked, tells how far it is, and fails for all alike."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.gateway import inference, loads
from cortex.serving import event_stream
from cortex.wire.sse import KEEP_ALIVE
from fake_fleet import STREAM, WHOLE, Call, FakeFleet, FakeNode, Gateway, Script, ask, soon, until

pytestmark = pytest.mark.anyio

COLD = ModelSpec(id="cold", source="hf:org/cold:Q4", context=2048, vram_mb=100, options={"slots": 2})
LOAD = "/models/load"


class Gate:
    """A load that goes on when it is told to."""

    def __init__(self, node: FakeNode) -> None:
        self._node, self._open = node, asyncio.Event()
        node.script(self._load, LOAD)

    async def _load(self, call: Call) -> None:
        await self._open.wait()
        await self._node.load(call)

    def open(self) -> None:
        self._open.set()


def refusing(status: int, code: str, **headers: str) -> Script:
    return lambda call: call.refuse(status, code, "why", **headers)


async def requests(gateway: Gateway, count: int, body: bytes) -> list[asyncio.Task[bytes]]:
    """Send *count* requests and return once all of them wait; each task gives its answer's body."""

    async def one() -> bytes:
        return (await gateway.post(body)).content

    before = gateway.state.total_requests
    tasks = [asyncio.ensure_future(one()) for _ in range(count)]
    await until(lambda: gateway.state.total_requests == before + count)
    return tasks


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


async def test_a_node_is_told_all_that_the_catalogue_says(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(COLD)
    await gateway.post(ask("cold"))

    assert (await node.call(LOAD)).json() == {
        "id": "cold",
        "source": "hf:org/cold:Q4",
        "engine": "llamacpp",
        "context": 2048,
        "vram_mb": 100,
        "options": {"slots": 2},
    }


async def test_a_load_outlives_the_client_that_caused_it(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    client = await gateway.connect(ask("cold"))
    await node.call(LOAD)
    client.hang_up()
    await gateway.idle()
    gate.open()
    await until(lambda: fleet.events("load_finished"))
    answer = await gateway.post(ask("cold"))

    assert answer.status_code == 200
    assert len(node.asked(LOAD)) == 1
    assert len(node.asked()) == 1


async def test_a_model_that_its_node_loads_already_is_waited_for(fleet: FakeFleet) -> None:
    node = await fleet.node("a", cold="loading")
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    tasks = await requests(gateway, 2, ask("cold"))
    gate.open()

    assert await soon(asyncio.gather(*tasks)) == [WHOLE, WHOLE]


@pytest.mark.parametrize("refusal", [refusing(503, "insufficient_memory"), refusing(503, "shutting_down"), Call.reset])
async def test_a_node_that_cannot_take_a_model_is_followed_by_the_next(fleet: FakeFleet, refusal: Script) -> None:
    async def refuse(call: Call) -> None:
        if (result := refusal(call)) is not None:
            await result

    a, b = await fleet.node("a"), await fleet.node("b")
    a.script(refuse, LOAD)
    gateway = await fleet.gateway(COLD)
    answer = await gateway.post(ask("cold"))

    assert answer.headers["x-cortex-node"] == "b"
    assert (len(a.asked(LOAD)), len(b.asked(LOAD))) == (1, 1)


async def test_the_node_with_the_most_room_is_asked_first(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    b.free_bytes *= 2
    gateway = await fleet.gateway(COLD)

    assert (await gateway.post(ask("cold"))).headers["x-cortex-node"] == "b"
    assert a.asked(LOAD) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_load_that_failed_fails_for_everyone_who_waits(fleet: FakeFleet, stream: bool) -> None:
    """What will not help on another node is not tried there."""
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway, going = await fleet.gateway(COLD), asyncio.Event()

    async def refuse(call: Call) -> None:
        await going.wait()
        await call.refuse(503, "model_load_failed", "the file is damaged", x_should_retry="false")

    a.script(refuse, LOAD)
    posts = [asyncio.ensure_future(gateway.post(ask("cold", stream=stream))) for _ in range(3)]
    await until(lambda: gateway.state.total_requests == 3)
    going.set()
    answers = await soon(asyncio.gather(*posts))

    for answer in answers:
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        assert answer.json()["error"]["code"] == "model_load_failed"
        assert "the file is damaged" in answer.json()["error"]["message"]
    assert (len(a.asked(LOAD)), len(b.asked(LOAD))) == (1, 0)


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


async def test_those_who_wait_hear_how_far_the_load_is(fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(inference, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(inference, "EventStream", partial(event_stream.EventStream, every_seconds=0.02))
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    progress = {"stage": "weights", "percent": 42}
    model = {"id": "cold", "engine": "llamacpp", "status": "loading", "progress": progress}
    node.script(lambda call: call.respond(200, [model]), "/models")
    async with gateway.stream(ask("cold", stream=True, user="me")) as answer:
        pieces, heard = answer.aiter_raw(), b""
        while b"weights 42%" not in heard:
            heard += await soon(anext(pieces))
        gate.open()
        heard += b"".join([piece async for piece in pieces])

    *waiting, _ = heard.removesuffix(STREAM).replace(KEEP_ALIVE, b"").split(b"\n\n")
    assert heard.endswith(STREAM)
    assert answer.headers["x-cortex-ignored"] == "user"
    assert all(line.startswith(b": loading cold on a: ") for line in waiting)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'[{"id":"\xff"}]', b"[" * 100_000, b'{"error":1}'],
    ids=["empty", "html", "utf8", "deep", "object"],
)
async def test_progress_that_cannot_be_read_does_not_disturb_the_load(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(loads, "WATCH_SECONDS", 0.005)
    node = await fleet.node()
    gate, gateway = Gate(node), await fleet.gateway(COLD)
    node.script(lambda call: call.respond(200, body), "/models")
    (task,) = await requests(gateway, 1, ask("cold"))
    await node.call("/models", 3)
    gate.open()

    assert await soon(task) == WHOLE


async def test_a_load_on_a_node_that_vanishes_goes_on_elsewhere(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses its power closes no connection: that it is taken for dead must end the wait."""
    monkeypatch.setattr(loads, "WATCH_SECONDS", 0.01)
    a, b = await fleet.node("a"), await fleet.node("b")
    gateway = await fleet.gateway(COLD, misses=1, poll_timeout_seconds=0.05)
    for path in (LOAD, "/models", "/health"):
        a.script(Call.caller_left, path)
    (task,) = await requests(gateway, 1, ask("cold"))
    await a.call(LOAD)
    await gateway.cortex.poller.poll("a")

    assert await soon(task) == WHOLE
    assert len(b.asked(LOAD)) == 1
    await until(lambda: gateway.cortex.inference._loads.get("cold") is None)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"model": "cold", "messages": []}).encode(),
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


async def test_a_load_that_the_gateway_gives_up_is_not_taken_for_a_success(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(COLD)
    Gate(node)
    job = gateway.cortex.inference._loads.start(COLD, ["a"])
    await node.call(LOAD)
    gateway.cortex.inference._loads._tasks.cancel_scope.cancel()
    waiting = asyncio.ensure_future(job.wait())
    with pytest.raises(CortexError) as caught:
        await asyncio.shield(waiting)

    assert caught.value.code == "shutting_down"


@pytest.mark.parametrize(("becomes", "status"), [("ready", 200), ("failed", 503)])
async def test_a_load_that_somebody_else_asked_for_is_waited_for_and_never_asked_for_again(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch, becomes: str, status: int
) -> None:
    """The catalogue does not have the model: what its files are is not ours to guess."""
    monkeypatch.setattr(loads, "WATCH_SECONDS", 0.01)
    node = await fleet.node("a", stranger="loading")
    gateway = await fleet.gateway()
    asking = asyncio.ensure_future(gateway.post(ask("stranger")))
    await node.call("/health", len(node.asked("/health")) + 2)
    node.models["stranger"] = becomes

    assert (await soon(asking)).status_code == status
    assert node.asked(LOAD) == []
