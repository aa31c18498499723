"""Control calls: whole answers or an error that says what went wrong, and nothing that is asked twice by mistake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from cortex.core.errors import UpstreamFailed, UpstreamTimeout
from cortex.gateway import control as control_module
from cortex.gateway.control import Control, NodeRefuses
from cortex.gateway.upstream import Pool
from fake_fleet import Call, FakeFleet, soon, until

pytestmark = pytest.mark.anyio

HEALTH, LOAD = "/health", "/models/load"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
async def control(anyio_backend: object) -> AsyncGenerator[Control, None]:
    control = Control(Pool(1.0))
    yield control
    control.close()


async def test_a_get_returns_the_body_and_sends_no_more_than_it_must(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(200, b'{"a": 1}'), HEALTH)
    body = await control.get(node.address, HEALTH, 1)

    assert body == b'{"a": 1}'
    [call] = node.asked(HEALTH)
    assert (call.method, call.headers, call.body) == ("GET", [("host", f"127.0.0.1:{node.port}")], b"")


async def test_an_answer_in_single_bytes_is_the_same_answer(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()

    async def dribble(call: Call) -> None:
        for byte in ANSWER:
            await call.send(bytes([byte]))
            await asyncio.sleep(0)

    node.script(dribble, HEALTH)

    assert await control.get(node.address, HEALTH, 1) == b"{}"


async def test_gets_share_a_connection(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    for _ in range(5):
        await control.get(node.address, HEALTH, 1)

    assert (node.connections, len(node.asked(HEALTH))) == (1, 5)


@pytest.mark.parametrize("status", [204, 301, 404, 500])
async def test_any_status_but_200_is_a_failure_and_nothing_is_followed(
    fleet: FakeFleet, control: Control, status: int
) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(status, b"", location="/discovery"), HEALTH)

    with pytest.raises(UpstreamFailed, match=f"^/health answered HTTP {status}$"):
        await control.get(node.address, HEALTH, 1)
    assert not node.asked("/discovery")


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        (None, 401, "^wants a token, and we have none$"),
        ("a-token-of-16-chars", 401, "^refuses our token$"),
        (None, 403, "^refuses us: 'attic' is not its name$"),
    ],
)
async def test_a_node_that_will_not_have_us_says_why(
    fleet: FakeFleet, anyio_backend: object, token: str | None, status: int, said: str
) -> None:
    node, control = await fleet.node(), Control(Pool(1.0), token)
    node.script(lambda call: call.refuse(status, "some_code", "'attic' is not its name"), HEALTH)
    node.script(lambda call: call.refuse(status, "some_code", "'attic' is not its name"), LOAD)

    with pytest.raises(NodeRefuses, match=said):
        await control.get(node.address, HEALTH, 1)
    with pytest.raises(NodeRefuses, match=said):
        await control.post(node.address, LOAD, b"{}", 1)
    control.close()


async def test_a_token_is_shown_with_every_call(fleet: FakeFleet, anyio_backend: object) -> None:
    node, control = await fleet.node(), Control(Pool(1.0), "a-token-of-16-chars")
    await control.get(node.address, HEALTH, 1)
    await control.post(node.address, LOAD, b'{"id": "n"}', 1)
    control.close()

    assert [dict(call.headers).get("authorization") for call in node.calls] == ["Bearer a-token-of-16-chars"] * 2


async def test_a_node_that_is_not_there_is_told_without_its_address(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    await node.stop()

    with pytest.raises(UpstreamFailed, match=r"^the node cannot be reached: Connection refused$"):
        await control.get(node.address, HEALTH, 1)


async def test_the_time_limit_is_for_the_whole_answer_however_busy_the_node_looks(
    fleet: FakeFleet, control: Control
) -> None:
    node = await fleet.node()

    async def drip(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while not call.writer.transport.is_closing():
            await call.send(b"x")
            await asyncio.sleep(0.001)

    node.script(drip, HEALTH)

    with pytest.raises(UpstreamTimeout, match=r"^/health was not answered within 0\.05 s$"):
        await soon(control.get(node.address, HEALTH, 0.05))


@pytest.mark.parametrize("path", [HEALTH, LOAD])
async def test_an_answer_without_end_is_refused(
    fleet: FakeFleet, control: Control, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(control_module, "MAX_ANSWER_BYTES", 10_000)
    node = await fleet.node()

    async def flood(call: Call) -> None:
        await call.open_events()
        while not call.writer.transport.is_closing():
            await call.events(b"x" * 1000)

    node.script(flood, path)

    with pytest.raises(UpstreamFailed, match="too large"):
        await soon(control.get(node.address, path, 5) if path == HEALTH else control.post(node.address, path, b"", 5))


async def test_a_connection_that_went_stale_is_nobodys_fault(fleet: FakeFleet, control: Control) -> None:
    """The node may close an idle connection in the moment that a question is sent on it."""
    node = await fleet.node()
    await control.get(node.address, HEALTH, 1)
    answer = node.scripts[HEALTH]

    async def close_once(call: Call) -> None:
        node.script(answer, HEALTH)
        call.hang_up()

    node.script(close_once, HEALTH)

    assert b"boot-1" in await control.get(node.address, HEALTH, 1)
    assert node.connections == 2


async def test_a_fresh_connection_that_breaks_is_a_failure(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()

    async def close(call: Call) -> None:
        call.hang_up()

    node.script(close, HEALTH)

    with pytest.raises(UpstreamFailed, match="before the answer was whole"):
        await control.get(node.address, HEALTH, 1)
    assert len(node.asked(HEALTH)) == 1


async def test_a_post_returns_whatever_the_node_answers(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    node.script(lambda call: call.refuse(503, "insufficient_memory", retry_after="7"), LOAD)
    answer = await control.post(node.address, LOAD, b'{"id":"m"}', None, "req-1")

    assert (answer.status, answer.headers[b"retry-after"]) == (503, b"7")
    assert b"insufficient_memory" in answer.body
    [call] = node.asked(LOAD)
    assert (call.method, call.body) == ("POST", b'{"id":"m"}')
    assert {("content-type", "application/json"), ("x-request-id", "req-1")} <= set(call.headers)


async def test_an_order_is_never_given_twice(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    await control.get(node.address, HEALTH, 1)

    async def close(call: Call) -> None:
        call.hang_up()

    node.script(close, LOAD)

    with pytest.raises(UpstreamFailed):
        await control.post(node.address, LOAD, b"{}", None)
    assert len(node.asked(LOAD)) == 1


async def test_a_post_leaves_no_connection_behind(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    ended = []

    async def watch(call: Call) -> None:
        await call.respond(200, {})
        await call.caller_left()
        ended.append(call)

    node.script(watch, LOAD)
    await control.post(node.address, LOAD, b"{}", None)

    await until(lambda: ended)


async def test_a_post_that_may_not_take_long_says_so(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    node.script(Call.caller_left, LOAD)

    with pytest.raises(UpstreamTimeout, match=r"/models/load was not answered within 0\.05 s"):
        await control.post(node.address, LOAD, b"{}", 0.05)


async def test_every_call_to_a_node_taken_for_dead_fails_at_once(fleet: FakeFleet, control: Control) -> None:
    dead, alive = await fleet.node("dead"), await fleet.node("alive")
    dead.script(Call.caller_left, LOAD)
    alive.script(lambda call: call.respond(200, {}), LOAD)
    load = asyncio.ensure_future(control.post(dead.address, LOAD, b"{}", None))
    await dead.call(LOAD)
    control.drop(dead.address)

    with pytest.raises(UpstreamFailed):
        await soon(load)
    assert (await control.post(alive.address, LOAD, b"{}", None)).status == 200


async def test_many_loads_leave_the_polls_alone(fleet: FakeFleet, control: Control) -> None:
    node = await fleet.node()
    node.script(Call.caller_left, LOAD)
    loads = [asyncio.ensure_future(control.post(node.address, LOAD, b"{}", None)) for _ in range(60)]
    await node.call(LOAD, 60)

    assert b"boot-1" in await control.get(node.address, HEALTH, 1)
    control.drop(node.address)
    assert {type(error) for error in await asyncio.gather(*loads, return_exceptions=True)} == {UpstreamFailed}


async def test_cancelling_a_call_tells_the_node(fleet: FakeFleet, control: Control) -> None:
    node, left = await fleet.node(), asyncio.Event()

    async def wait(call: Call) -> None:
        await call.caller_left()
        left.set()

    node.script(wait, LOAD)
    load = asyncio.ensure_future(control.post(node.address, LOAD, b"{}", None))
    await node.call(LOAD)
    load.cancel()

    await soon(left.wait())


async def test_an_address_of_the_new_kind_is_written_in_brackets() -> None:
    assert control_module._host(("::1", 13131)) == "[::1]:13131"
