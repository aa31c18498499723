"""A request from a client's socket to a node's and back: what arrives, what is tried next, and what a fault costs."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import httpx2
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.gateway import inference
from cortex.serving import event_stream
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.errors import DONE
from cortex.wire.openai import COMPLETION
from cortex.wire.sse import KEEP_ALIVE, Trailer, data_event, trailer_event
from fake_fleet import EVENTS, STREAM, TRAILER, WHOLE, Call, FakeFleet, Gateway, ask, soon, until

pytestmark = pytest.mark.anyio

M = ModelSpec(id="m", aliases=("gpt-4o",))
STREAMED = ask(stream=True)


def last_error(body: bytes) -> dict[str, Any]:
    """Return the error in the last event of *body*."""
    assert body.endswith(b"\n\n")
    value: dict[str, Any] = json.loads(body.strip().rpartition(b"data: ")[2])["error"]
    return value


async def read(gateway: Gateway, body: bytes = STREAMED, **headers: str) -> bytes:
    async with gateway.stream(body, **headers) as answer:
        assert answer.status_code == 200
        return await soon(answer.aread())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """First bytes and keep-alives come in a fraction of the time."""
    shorter = partial(event_stream.EventStream, every_seconds=0.02)
    monkeypatch.setattr(inference, "EventStream", shorter)
    monkeypatch.setattr(inference, "PATIENCE_SECONDS", 0.02)


# bytes in, bytes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 1000])
async def test_a_stream_arrives_as_the_node_sent_it_without_the_trailer(fleet: FakeFleet, size: int) -> None:
    node = await fleet.node()
    sent = KEEP_ALIVE + STREAM + trailer_event(TRAILER)

    async def slices(call: Call) -> None:
        await call.open_events()
        for at in range(0, len(sent), size):
            await call.events(sent[at : at + size])
            await asyncio.sleep(0)
        await call.close_events()

    node.script(slices)
    gateway = await fleet.gateway()

    assert await read(gateway) == KEEP_ALIVE + STREAM


async def test_a_whole_answer_arrives_as_the_node_sent_it(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()

    answer = await gateway.post(ask())

    assert (answer.status_code, answer.content) == (200, WHOLE)
    assert answer.headers["content-type"] == "application/json"
    assert "x-cortex-trailer" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_names_its_request_its_node_and_what_was_ignored(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node("box")

    async def answer(call: Call) -> None:
        if stream:
            await call.open_events(b"x-cortex-ignored: user\r\nserver: secret/1.0\r\n")
            await call.events(STREAM + trailer_event(TRAILER))
            await call.close_events()
        else:
            await call.respond(200, WHOLE, x_cortex_ignored="user", server="secret/1.0")

    node.script(answer)
    gateway = await fleet.gateway()
    got = await gateway.post(ask(stream=stream), x_request_id="my-own.id")

    assert got.headers["x-request-id"] == "my-own.id"
    assert got.headers["x-cortex-node"] == "box"
    assert got.headers["x-cortex-ignored"] == "user"
    assert "server" not in got.headers


async def test_a_node_gets_the_body_as_sent_and_no_header_of_the_client(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(M)
    body = b' {"model" : "gpt-4o",\n"messages":[], "x":1e2,"unicode":"\\u00e4"} '
    secret = {"authorization": "Bearer key", "cookie": "a=b", "x_api_key": "key", "x_forwarded_for": "1.2.3.4"}
    await gateway.post(body, COMPLETION, x_request_id="r1", x_cortex_model="other", **secret)

    (call,) = node.asked(COMPLETION)
    assert call.body == body
    assert dict(call.headers) == {
        "host": f"127.0.0.1:{node.port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": "r1",
        "x-cortex-model": "m",
    }
    assert len(call.headers) == 5


# elsewhere ------------------------------------------------------------------------------------------------------------


async def two_nodes(fleet: FakeFleet, **limits: float) -> tuple[Any, Any, Gateway]:
    """Start `a`, which is tried first, `b`, and a gateway."""
    a, b = await fleet.node("a"), await fleet.node("b")
    return a, b, await fleet.gateway(**limits)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_cannot_be_reached_is_followed_by_the_next(fleet: FakeFleet, stream: bool) -> None:
    a, _, gateway = await two_nodes(fleet)
    await a.stop()

    answer = await gateway.post(ask(stream=stream))

    assert answer.status_code == 200
    assert answer.headers["x-cortex-node"] == "b"
    assert await gateway.sample("cortex_retries_total", model="m", node="a") == 1


async def reset(call: Call) -> None:
    call.reset()


async def cut_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-ty")
    call.hang_up()


async def no_event(call: Call) -> None:
    await call.open_events()
    await call.events(KEEP_ALIVE)
    await call.close_events()


async def html(call: Call) -> None:
    await call.respond(200, b"<html>login</html>", content_type="text/html")


async def garbage(call: Call) -> None:
    await call.send(b"\x00\x01\x02 nonsense\r\n\r\n")


async def huge_head(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (1 << 20) + b"\r\ncontent-length: 0\r\n\r\n")


async def redirect(call: Call) -> None:
    await call.respond(302, location="http://169.254.169.254/")


async def empty(call: Call) -> None:
    await call.send(b"HTTP/1.1 204 No Content\r\n\r\n")


async def unauthorised(call: Call) -> None:
    await call.respond(401, b"who are you", www_authenticate="Basic")


async def unavailable(call: Call) -> None:
    await call.refuse(503, "shutting_down", retry_after="15")


async def bad_gateway(call: Call) -> None:
    await call.respond(502, b"<h1>nginx</h1>", content_type="text/html")


FAULTS = [reset, cut_head, html, garbage, huge_head, redirect, empty, unauthorised, unavailable, bad_gateway]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_before_the_first_event_is_not_the_client_s(fleet: FakeFleet, fault: Any, stream: bool) -> None:
    """The next node answers; when there is none the client hears 502 or 503, and nothing of what the node said."""
    a, b, gateway = await two_nodes(fleet)
    a.script(fault)
    answer = await gateway.post(ask(stream=stream))

    assert (answer.status_code, answer.headers["x-cortex-node"]) == (200, "b")
    assert answer.content == (STREAM if stream else WHOLE)

    b.script(fault)
    answer = await gateway.post(ask(stream=stream))

    assert answer.status_code in (502, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"]
    assert not {b"login", b"nginx", b"who are you"} & set(answer.content.split())
    assert "location" not in answer.headers


async def test_a_stream_without_an_event_is_followed_by_the_next_node(fleet: FakeFleet) -> None:
    a, _, gateway = await two_nodes(fleet)
    a.script(no_event)
    assert await read(gateway) == KEEP_ALIVE + STREAM


async def test_a_request_is_tried_on_each_node_once(fleet: FakeFleet) -> None:
    a, b, gateway = await two_nodes(fleet)
    a.script(unavailable)
    b.script(unavailable)
    answer = await gateway.post(ask())

    assert (len(a.asked()), len(b.asked())) == (1, 1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "15"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code", "headers"),
    [
        (400, "invalid_type", {}),
        (413, "request_too_large", {}),
        (500, None, {"x_should_retry": "false"}),
    ],
)
async def test_a_refusal_of_the_request_itself_is_passed_on(
    fleet: FakeFleet, status: int, code: str | None, headers: dict[str, str], stream: bool
) -> None:
    a, b, gateway = await two_nodes(fleet)
    error = {"message": "temperature: é", "type": "some_error", "code": code, "param": "temperature"}
    a.script(lambda call: call.respond(status, {"error": error}, **headers))
    answer = await gateway.post(ask(stream=stream))

    assert answer.status_code == status
    assert answer.json() == {"error": error}
    assert answer.headers.get("retry-after") == headers.get("retry_after")
    assert answer.headers.get("x-should-retry") == headers.get("x_should_retry")
    assert b.asked() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_node_is_followed_by_the_next_and_all_full_is_told(fleet: FakeFleet, stream: bool) -> None:
    a, b, gateway = await two_nodes(fleet)
    a.script(lambda call: call.refuse(429, "rate_limit_exceeded", retry_after="7"))

    assert (await gateway.post(ask(stream=stream))).headers["x-cortex-node"] == "b"

    b.script(lambda call: call.refuse(429, "rate_limit_exceeded", retry_after="9"))
    answer = await gateway.post(ask(stream=stream))

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] in ("7", "9")


async def test_a_crash_that_a_node_describes_in_its_own_way_is_not_shown(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(500, b"Traceback: /home/me/secret.py", content_type="text/plain"))
    answer = await (await fleet.gateway()).post(ask())

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_malformed_response")
    assert b"secret" not in answer.content


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_is_gone_from_its_node_is_loaded_there_again(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(M)
    node.models.clear()

    async def answer(call: Call) -> None:
        await (call.answer() if node.models else call.refuse(404, "model_not_found"))

    node.script(answer)
    got = await gateway.post(ask(stream=stream))

    assert got.status_code == 200
    assert len(node.asked("/models/load")) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pooled_connection_that_went_stale_costs_one_try_on_a_fresh_one(fleet: FakeFleet, stream: bool) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask())
    fresh: list[Call] = []

    async def stale_first(call: Call) -> None:
        fresh.append(call)
        await (reset(call) if len(fresh) == 1 else call.answer())

    node.script(stale_first)
    answer = await gateway.post(ask(stream=stream))

    assert answer.status_code == 200
    assert len(fresh) == 2
    assert await gateway.sample("cortex_retries_total", model="m", node="a") == 0
    assert [len(held) for held in gateway.cortex._pool._busy.values()] == [0]


async def test_a_connection_that_failed_twice_is_not_tried_a_third_time(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask())
    node.script(reset)
    answer = await gateway.post(ask())

    assert answer.status_code == 502
    assert len(node.asked()) == 3


async def test_a_fresh_connection_that_fails_is_not_tried_again(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    node.script(reset)
    answer = await gateway.post(ask())

    assert answer.status_code == 502
    assert len(node.asked()) == 1


# faults in mid-stream -------------------------------------------------------------------------------------------------


async def stops_cleanly(call: Call) -> None:
    await call.close_events()


async def stops_short(call: Call) -> None:
    call.hang_up()


async def breaks(call: Call) -> None:
    call.reset()


async def stalls(call: Call) -> None:
    await call.caller_left()


async def talks_nonsense(call: Call) -> None:
    await call.send(b"zz\r\nnonsense\r\n")
    await call.caller_left()


@pytest.mark.parametrize(
    "end", [stops_cleanly, stops_short, breaks, stalls, talks_nonsense], ids=lambda end: end.__name__
)
async def test_an_answer_that_breaks_off_ends_in_an_error_and_never_looks_whole(fleet: FakeFleet, end: Any) -> None:
    a, b, gateway = await two_nodes(fleet, stall_seconds=0.2)

    async def half(call: Call) -> None:
        await call.open_events()
        await call.events(EVENTS + b"data: {half an ev")
        await end(call)

    a.script(half)
    body = await read(gateway, x_cortex_continue="never")

    assert body.startswith(EVENTS + b'data: {"error"')
    assert last_error(body)["code"] == (
        "upstream_timeout"
        if end is stalls
        else "upstream_malformed_response"
        if end is talks_nonsense
        else "upstream_connection_error"
    )
    assert b"[DONE]" not in body
    assert b.asked() == []
    assert await gateway.sample("cortex_request_errors_total", model="m", node="a", code=last_error(body)["code"]) == 1


async def test_an_error_that_the_node_told_is_told_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    told = data_event(b'{"error":{"message":"engine died","type":"server_error","code":"engine_failed","param":null}}')

    async def fail(call: Call) -> None:
        await call.open_events()
        await call.events(EVENTS + told + trailer_event(Trailer(Usage(), Timings(), "error")))
        await call.close_events()

    node.script(fail)
    gateway = await fleet.gateway()

    assert await read(gateway, x_cortex_continue="never") == EVENTS + told
    assert await gateway.sample("cortex_request_errors_total", model="m", node="a", code="stream_error") == 1


# silence --------------------------------------------------------------------------------------------------------------


async def test_a_silent_node_does_not_leave_the_client_in_silence(fleet: FakeFleet, impatient: None) -> None:
    node, going = await fleet.node(), asyncio.Event()

    async def late(call: Call) -> None:
        await going.wait()
        await call.answer()

    node.script(late)
    gateway = await fleet.gateway()
    async with gateway.stream(STREAMED) as answer:
        pieces = answer.aiter_raw()
        heard = b""
        while heard.count(KEEP_ALIVE) < 3:
            heard += await soon(anext(pieces))
        going.set()
        heard += b"".join([piece async for piece in pieces])

    assert heard.replace(KEEP_ALIVE, b"") == STREAM
    assert heard.startswith(KEEP_ALIVE)


async def test_the_first_byte_comes_within_a_second(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(Call.caller_left)
    gateway = await fleet.gateway()
    began = asyncio.get_running_loop().time()
    async with gateway.stream(STREAMED) as answer:
        assert await soon(anext(answer.aiter_raw())) == KEEP_ALIVE
        assert asyncio.get_running_loop().time() - began < 1.0


async def test_a_failure_after_the_first_keep_alive_is_an_event(fleet: FakeFleet, impatient: None) -> None:
    node, going = await fleet.node(), asyncio.Event()

    async def refuse(call: Call) -> None:
        await going.wait()
        await call.refuse(400, "context_length_exceeded", "too long")

    node.script(refuse)
    gateway = await fleet.gateway()
    async with gateway.stream(STREAMED) as answer:
        assert answer.status_code == 200
        going.set()
        body = await soon(answer.aread())

    assert last_error(body)["code"] == "context_length_exceeded"
    assert b"[DONE]" not in body


# clients that leave, and clients that do not read ---------------------------------------------------------------------


async def before_a_head(call: Call) -> None:
    pass


async def after_a_head(call: Call) -> None:
    await call.open_events()


async def in_mid_stream(call: Call) -> None:
    await call.open_events()
    await call.events(EVENTS)


async def in_a_whole_answer(call: Call) -> None:
    await call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")


@pytest.mark.parametrize("how", ["hang_up", "reset", "half_close"])
@pytest.mark.parametrize(
    ("when", "stream"),
    [
        (before_a_head, True),
        (after_a_head, True),
        (in_mid_stream, True),
        (before_a_head, False),
        (in_a_whole_answer, False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_a_client_that_leaves_ends_the_work_at_the_node(
    fleet: FakeFleet, when: Any, stream: bool, how: str
) -> None:
    node, there = await fleet.node(), asyncio.Event()

    async def begin(call: Call) -> None:
        await when(call)
        there.set()
        await call.caller_left()
        left.set()

    left = asyncio.Event()
    node.script(begin)
    gateway = await fleet.gateway()
    client = await gateway.connect(ask(stream=stream))
    await soon(there.wait())
    if when is in_mid_stream:
        await soon(client.reader.readuntil(b"two"))
    getattr(client, how)()

    await asyncio.wait_for(left.wait(), 1)
    assert await gateway.sample("cortex_client_disconnects_total", model="m", node="a") == 1
    assert gateway.cortex.steward.reconciler.doors.flights == {}


async def test_a_client_that_leaves_while_a_node_is_being_reached_ends_the_attempt(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    reached = asyncio.Event()

    async def never(*_: object) -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(gateway.cortex._pool, "fresh", never)
    client = await gateway.connect(ask())
    await soon(reached.wait())
    client.hang_up()

    await gateway.idle()
    assert await gateway.sample("cortex_client_disconnects_total", model="m", node="a") == 1


EVENT = data_event(b'{"choices":[{"delta":{"content":"' + b"x" * 65000 + b'"}}]}')
FLOOD = 500


async def flood(call: Call, blocked: asyncio.Event) -> None:
    """Send tens of megabytes, and say when the gateway takes no more."""
    await call.open_events()
    for _ in range(FLOOD):
        sending = asyncio.ensure_future(call.events(EVENT))
        if not (await asyncio.wait([sending], timeout=0.3))[0]:
            blocked.set()
        await sending
    await call.events(DONE + trailer_event(TRAILER))
    await call.close_events()


async def test_a_client_that_does_not_read_holds_the_node_and_loses_nothing(fleet: FakeFleet) -> None:
    """What waits in the gateway stays small, and the wait is not taken for a silence of the node."""
    node, blocked = await fleet.node(), asyncio.Event()
    node.script(partial(flood, blocked=blocked))
    gateway = await fleet.gateway(stall_seconds=0.1)
    client = await gateway.connect(STREAMED, version=b"1.0")
    await soon(blocked.wait())
    (connection,) = gateway.state.connections

    assert connection._transport.get_write_buffer_size() < 1 << 20
    body = (await soon(client.reader.read())).partition(b"\r\n\r\n")[2]
    assert body == EVENT * FLOOD + DONE


@pytest.mark.parametrize("how", ["hang_up", "reset", "half_close"])
async def test_a_client_that_leaves_while_it_is_behind_ends_the_work_at_the_node(fleet: FakeFleet, how: str) -> None:
    node, blocked, left = await fleet.node(), asyncio.Event(), asyncio.Event()

    async def watched(call: Call) -> None:
        try:
            await flood(call, blocked)
        except ConnectionError:
            left.set()

    node.script(watched)
    gateway = await fleet.gateway()
    client = await gateway.connect(STREAMED, version=b"1.0")
    await soon(blocked.wait())
    getattr(client, how)()

    await asyncio.wait_for(left.wait(), 1)
    await gateway.idle()


async def test_a_slow_client_delays_nobody_else(fleet: FakeFleet) -> None:
    node, blocked = await fleet.node(), asyncio.Event()
    node.script(partial(flood, blocked=blocked))
    gateway = await fleet.gateway()
    await gateway.connect(STREAMED)
    await soon(blocked.wait())
    node.script(Call.answer)

    assert await asyncio.wait_for(read(gateway), 1) == STREAM


# the client's own mistakes, and who is asked --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_json"),
        (b'{"model":', 400, "malformed_json"),
        (b"[" * 100_000, 400, None),
        (b'{"model":"\xff"}', 400, "malformed_json"),
        (b'{"messages":[]}', 400, "missing_model_field"),
        (ask(""), 400, "missing_model_field"),
        (ask("../../etc/passwd"), 404, "model_not_found"),
        (ask("m\r\nx: y"), 404, "model_not_found"),
        (ask("n"), 404, "model_not_found"),
    ],
)
async def test_a_request_that_cannot_be_routed_reaches_no_node(
    fleet: FakeFleet, body: bytes, status: int, code: str | None
) -> None:
    node = await fleet.node()
    answer = await (await fleet.gateway()).post(body)

    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code
    assert node.asked() == []


async def test_a_name_that_is_nearly_right_is_hinted_at(fleet: FakeFleet) -> None:
    await fleet.node()
    answer = await (await fleet.gateway(M)).post(ask("gpt-4"))
    assert "did you mean gpt-4o?" in answer.json()["error"]["message"]


async def test_requests_spread_over_the_replicas(fleet: FakeFleet) -> None:
    a, b, gateway = await two_nodes(fleet)
    going = asyncio.Event()

    async def wait(call: Call) -> None:
        await going.wait()
        await call.answer()

    a.script(wait)
    b.script(wait)
    tasks = [asyncio.ensure_future(gateway.post(ask())) for _ in range(6)]
    await until(lambda: len(a.asked()) + len(b.asked()) == 6)
    going.set()
    answers = await soon(asyncio.gather(*tasks))

    assert (len(a.asked()), len(b.asked())) == (3, 3)
    assert {answer.status_code for answer in answers} == {200}


async def test_pipelined_requests_are_answered_in_order_however_many(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(200, call.json()["user"].encode()))
    gateway = await fleet.gateway()
    client = await gateway.connect(ask(user="<0>"))
    for number in range(1, 40):
        body = ask(user=f"<{number}>")
        client.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        client.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    sent = await soon(client.reader.readuntil(b"<39>"))

    places = [sent.index(b"<%d>" % number) for number in range(40)]
    assert places == sorted(places)


async def test_a_finished_request_is_one_line_in_the_log(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(stream=True), x_request_id="r1")
    await gateway.idle()

    (line,) = fleet.events("request_finished")
    assert {"request": "r1", "model": "m", "node": "a", "status": 200, "reason": "stop"}.items() <= line.items()
    assert (line["prompt_tokens"], line["completion_tokens"], line["attempts"]) == (7, 3, 1)
    assert 0.025 <= line["ttft_seconds"] < 1


async def test_a_connection_serves_many_requests(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
        for stream in (True, False, True):
            answer = await client.post(gateway.url + "/v1/chat/completions", content=ask(stream=stream))
            assert answer.status_code == 200

    assert (len(node.asked()), node.connections) == (3, 2)  # one for polls, one for requests


# who listens ----------------------------------------------------------------------------------------------------------


async def test_who_listens_hears_of_each_request_what_it_took_and_nothing_of_what_was_said(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway(M)

    with gateway.cortex.feed.listener() as listener:
        await gateway.post(ask("gpt-4o"), x_session_id="the client's own")
        await read(gateway, STREAMED)
        first, second = await listener.next(1.0), await listener.next(1.0)

    assert first is not None
    assert second is not None
    assert (first["kind"], first["model"], first["node"], first["status"]) == ("request", "m", "a", 200)
    assert (first["prompt_tokens"], first["completion_tokens"]) == (7, 3)
    assert first["arrived"] + first["seconds"] == pytest.approx(first["time"])
    assert (first["stream"], second["stream"]) == (False, True)
    assert len(first["session"]) == 16
    assert second["session"] is None
    told = {"model", "node", "arrived", "seconds", "prompt_tokens", "completion_tokens", "session", "stream", "status"}
    assert set(first) == {"seq", "time", "kind", *told}


async def test_one_session_has_one_hash(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway(M)

    with gateway.cortex.feed.listener() as listener:
        for session in ("one", "two", "one"):
            await gateway.post(ask(), x_session_id=session)
        heard = [await listener.next(1.0) for _ in range(3)]

    one, two, again = (entry["session"] if entry else None for entry in heard)
    assert one == again != two


async def test_a_request_that_was_not_served_is_not_told(fleet: FakeFleet) -> None:
    (await fleet.node()).script(lambda call: call.refuse(400, "invalid_type"))
    gateway = await fleet.gateway(M)

    with gateway.cortex.feed.listener() as listener:
        await gateway.post(ask())

        assert await listener.next(0.01) is None
