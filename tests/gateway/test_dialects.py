"""A request in each dialect, from a client's socket to a node's and back: nothing of the hub's shows on the way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import BadRequest, UpstreamFailed
from cortex.core.model_spec import ModelSpec
from cortex.gateway import inference
from cortex.gateway.dialects import PATHS, RESPONSES, Asked, Dialects
from cortex.gateway.stored_responses import StoredResponses
from cortex.serving import event_stream
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.envelopes import MESSAGES
from cortex.wire.errors import openai_event
from cortex.wire.openai import CHAT, EMBEDDING
from cortex.wire.rerank import RERANK
from cortex.wire.sse import KEEP_ALIVE, Trailer, encode_trailer, trailer_event
from cortex.wire.translation import Opening, opening_comment
from fake_fleet import TRAILER, Call, FakeFleet, FakeNode, Gateway, soon, until
from wire.anthropic.grammar import collected, events_of
from wire.hub import DONE, chunk, hub_answer, hub_stream
from wire.responses.dialogue import check_response, events, output

pytestmark = pytest.mark.anyio

M = ModelSpec(id="m", aliases=("claude-x",))
OPENING = opening_comment(Opening(12, 4))
CHUNKS = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hel"}),
    chunk({"content": "lo ä"}),
    chunk(reason="stop"),
)
BEGINNING = b"".join(b"data: " + each + b"\n\n" for each in CHUNKS[:3])
TOLD = OPENING + hub_stream(*CHUNKS) + trailer_event(TRAILER)
FAILED = trailer_event(Trailer(Usage(), Timings(), "error"))
TRANSLATED = (MESSAGES, RESPONSES)
ALL = (CHAT, *TRANSLATED)


def asking(path: str, **fields: Any) -> bytes:
    """Return a request of the dialect of *path*."""
    own: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    if path == MESSAGES:
        own["max_tokens"] = 100
    if path == RESPONSES:
        own = {"input": "hi"}
    return json.dumps({"model": "m", **own, **fields}).encode()


def text_in(path: str, stream: bytes) -> str:
    """Return the text that a client of the dialect reads from a whole *stream*."""
    if path == MESSAGES:
        return "".join(block["text"] for block in collected(stream)["content"])
    if path == RESPONSES:
        items = output(events(stream))
        return "".join(part["text"] for item in items for part in item["content"])
    assert stream.endswith(DONE)
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
    return "".join(c["delta"].get("content", "") for each in chunks for c in each["choices"])


def error_in(path: str, stream: bytes) -> tuple[str, str]:
    """Return the type or code, and the message, of the error that ends *stream*; nothing in it is a success."""
    if path == MESSAGES:
        last = events_of(stream)[-1]
        assert last["type"] == "error"
        assert b"message_stop" not in stream
        return last["error"]["type"], last["error"]["message"]
    if path == RESPONSES:
        last = events(stream)[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert b"response.completed" not in stream
        return last["response"]["error"]["code"], last["response"]["error"]["message"]
    assert b"[DONE]" not in stream
    error = json.loads(stream.strip().rpartition(b"data: ")[2])["error"]
    return error["code"], error["message"]


def error_of(path: str, body: bytes) -> dict[str, Any]:
    """Return the error in the *body* of a refusal, which is in the dialect's envelope and in nothing else."""
    envelope: dict[str, Any] = json.loads(body)
    if path == MESSAGES:
        assert (envelope["type"], set(envelope)) == ("error", {"type", "error", "request_id"})
        assert set(envelope["error"]) == {"type", "message"}
    else:
        assert set(envelope) == {"error"}
        assert set(envelope["error"]) == {"type", "message", "code", "param"}
    found: dict[str, Any] = envelope["error"]
    return found


async def tell(call: Call, stream: bytes = TOLD) -> None:
    """Answer as a healthy node does."""
    if call.json().get("stream"):
        await call.open_events()
        await call.events(stream if "x-cortex-opening" in dict(call.headers) else stream.removeprefix(OPENING))
        await call.close_events()
    else:
        await call.respond(200, hub_answer(*CHUNKS), x_cortex_trailer=encode_trailer(TRAILER).decode())


async def begin(call: Call, stream: bytes, *, close: bool = True) -> None:
    """Begin a stream with *stream*, and end the connection, or wait for the gateway to do so."""
    await call.open_events()
    await call.events(stream)
    if close:
        call.hang_up()
    else:
        await call.caller_left()


async def speaking(fleet: FakeFleet, name: str = "a") -> FakeNode:
    """Start a node that answers as a healthy one."""
    node = await fleet.node(name)
    node.script(tell)
    return node


async def read(gateway: Gateway, path: str, goes_on: str = "", **fields: Any) -> bytes:
    """Return the body of a stream; *goes_on* is what its client says of answers that break off."""
    headers = {"x_cortex_continue": goes_on} if goes_on else {}
    async with gateway.stream(asking(path, stream=True, **fields), path, **headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return await soon(answer.aread())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """First bytes and keep-alives come in a fraction of the time."""
    monkeypatch.setattr(inference, "EventStream", partial(event_stream.EventStream, every_seconds=0.02))
    monkeypatch.setattr(inference, "PATIENCE_SECONDS", 0.02)


# what a request asks for ----------------------------------------------------------------------------------------------


class Posted:
    """As much of an exchange as dialects look at."""

    def __init__(self, path: str, body: bytes) -> None:
        self.path, self.body = path, body


@pytest.fixture
def dialects(tmp_path: Path) -> Dialects:
    return Dialects(StoredResponses(tmp_path / "responses.db"))


def asked_by(dialects: Dialects, path: str, body: bytes, owner: str = "") -> Asked:
    return dialects.read(Posted(path, body), owner)  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "stream"), [(CHAT, True), (EMBEDDING, False), (RERANK, False)])
async def test_the_hub_s_own_dialect_is_passed_on_as_it_stands(dialects: Dialects, path: str, stream: bool) -> None:
    """Embeddings and scores are never streamed: their `stream` is the node's to ignore by name."""
    body = b' {"model" : "m", "stream":true, "extra":1e2} '
    asked = asked_by(dialects, path, body)

    assert (asked.model, asked.stream, asked.path, asked.body) == ("m", stream, path, body)
    assert (asked.translation, asked.ignored) == (None, ())
    assert asked.keep_alive("loading\nm") == b": loading m\n\n"


@pytest.mark.parametrize("path", TRANSLATED)
@pytest.mark.parametrize("stream", [False, True])
async def test_another_dialect_asks_the_hub_for_chat(dialects: Dialects, path: str, stream: bool) -> None:
    asked = asked_by(dialects, path, asking(path, stream=stream, unheard_of=1))
    hub = json.loads(asked.body)

    assert (asked.model, asked.stream, asked.path) == ("m", stream, CHAT)
    assert hub["messages"] == [{"role": "user", "content": "hi"}]
    assert hub.get("stream_options") == ({"include_usage": True} if stream else None)
    assert asked.ignored == ("unheard_of",)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"m"', b"\xff", b"[" * 100_000, b'{"model":1}'])
async def test_a_body_that_cannot_be_read_is_the_client_s_mistake(dialects: Dialects, path: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        asked_by(dialects, path, body)


async def test_a_response_that_cannot_be_kept_costs_its_client_nothing(dialects: Dialects, tmp_path: Path) -> None:
    asked = asked_by(dialects, RESPONSES, asking(RESPONSES))
    assert asked.translation is not None
    asked.translation.whole(hub_answer(*CHUNKS))
    database = sqlite3.connect(tmp_path / "responses.db")
    database.execute("DROP TABLE responses")
    database.close()

    dialects.done(asked, "")


# there and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL)
async def test_a_stream_is_told_in_the_client_s_grammar(fleet: FakeFleet, path: str) -> None:
    await speaking(fleet)
    body = await read(await fleet.gateway(), path)

    assert text_in(path, body) == "hello ä"
    assert b"cortex" not in body
    assert (b"[DONE]" in body) is (path == CHAT)


@pytest.mark.parametrize("path", TRANSLATED)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_stream_is_the_same_however_the_node_cuts_it(fleet: FakeFleet, path: str, size: int) -> None:
    async def slices(call: Call) -> None:
        await call.open_events()
        for at in range(0, len(TOLD), size):
            await call.events(TOLD[at : at + size])
        await call.close_events()

    (await fleet.node()).script(slices)
    assert text_in(path, await read(await fleet.gateway(), path)) == "hello ä"


async def test_a_whole_answer_is_told_in_the_client_s_shape(fleet: FakeFleet) -> None:
    await speaking(fleet)
    gateway = await fleet.gateway()
    message = (await gateway.post(asking(MESSAGES), MESSAGES)).json()
    response = check_response((await gateway.post(asking(RESPONSES), RESPONSES)).json())

    assert message["content"] == [{"type": "text", "text": "hello ä"}]
    assert (message["type"], message["stop_reason"]) == ("message", "end_turn")
    assert (message["usage"]["input_tokens"], message["usage"]["cache_read_input_tokens"]) == (8, 4)
    assert response["output"][0]["content"][0]["text"] == "hello ä"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize("path", TRANSLATED)
async def test_a_whole_answer_names_its_node_and_its_request_and_keeps_its_trailer(fleet: FakeFleet, path: str) -> None:
    await speaking(fleet)
    gateway = await fleet.gateway()
    answer = await gateway.post(asking(path), path, x_request_id="r-1")

    assert answer.headers["x-cortex-node"] == "a"
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers.get("request-id") == ("r-1" if path == MESSAGES else None)
    assert "x-cortex-trailer" not in answer.headers
    assert await gateway.sample("cortex_completion_tokens_total", model="m", node="a") == 3


@pytest.mark.parametrize("path", ALL)
async def test_a_node_is_asked_for_chat_and_opens_only_what_is_translated(fleet: FakeFleet, path: str) -> None:
    node = await speaking(fleet)
    await read(await fleet.gateway(M), path, model="claude-x")

    (call,) = node.asked(CHAT)
    headers = dict(call.headers)
    assert headers["x-cortex-model"] == "m"
    assert headers.get("x-cortex-opening") == (None if path == CHAT else "1")
    assert not {"authorization", "x-api-key", "anthropic-version", "user-agent"} & headers.keys()


SYSTEM = 'x-anthropic-billing-header: a=b;\n\n  Ärger „mit“ \u2028 😀 \\n "quotes" <|im_start|>\t'


async def test_system_prompts_reach_the_node_as_they_were_sent(fleet: FakeFleet) -> None:
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    user = [{"role": "user", "content": "hi"}]
    await gateway.post(asking(CHAT, messages=[{"role": "system", "content": SYSTEM}, *user]))
    await gateway.post(asking(MESSAGES, system=SYSTEM), MESSAGES)
    await gateway.post(
        asking(MESSAGES, system=[{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]), MESSAGES
    )
    await gateway.post(asking(RESPONSES, instructions=SYSTEM), RESPONSES)

    heard = [call.json()["messages"][0] for call in node.asked(CHAT)]
    assert [message["role"] for message in heard] == ["system"] * 4
    texts = [m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in heard]
    assert texts == [SYSTEM] * 4


# refusals, before a stream --------------------------------------------------------------------------------------------

REFUSALS = [
    (400, "context_length_exceeded", {}, 400, "invalid_request_error"),
    (429, "rate_limit_exceeded", {"retry_after": "7"}, 429, "rate_limit_error"),
    (503, "model_load_failed", {"x_should_retry": "false"}, 503, "api_error"),
    (503, "shutting_down", {"retry_after": "15"}, 529, "overloaded_error"),
    (500, "engine_bug", {}, 500, "api_error"),
]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "code", "headers", "anthropic_status", "kind"), REFUSALS)
async def test_a_refusal_is_told_in_the_dialect_with_its_headers(
    fleet: FakeFleet,
    path: str,
    stream: bool,
    status: int,
    code: str,
    headers: dict[str, str],
    anthropic_status: int,
    kind: str,
) -> None:
    (await fleet.node()).script(lambda call: call.refuse(status, code, "because", **headers))
    gateway = await fleet.gateway()
    answer = await gateway.post(asking(path, stream=stream), path)
    error = error_of(path, answer.content)

    assert error["message"] == "because"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == headers.get("retry_after")
    assert answer.headers.get("x-should-retry") == headers.get("x_should_retry")
    assert answer.headers["x-request-id"]
    if path == MESSAGES:
        assert (answer.status_code, error["type"]) == (anthropic_status, kind)
        assert answer.headers["request-id"] == answer.headers["x-request-id"] == answer.json()["request_id"]
    else:
        assert (answer.status_code, error["code"]) == (status, code)
        assert "request-id" not in answer.headers


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {}, 400),
        (b"", {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415),
    ],
)
async def test_a_request_that_cannot_be_read_is_refused_in_its_dialect(
    fleet: FakeFleet, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = await (await fleet.gateway()).post(body, path, **headers)

    assert answer.status_code == status
    assert error_of(path, answer.content)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [*ALL, f"{MESSAGES}/count_tokens"])
@pytest.mark.parametrize(
    ("line", "status"), [("Content-Encoding: gzip", 415), ("Content-Length: 99999999999", 413), ("Expect: magic", 417)]
)
async def test_a_body_that_is_never_read_is_refused_in_the_dialect_of_its_path(
    fleet: FakeFleet, path: str, line: str, status: int
) -> None:
    gateway = await fleet.gateway()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    gateway.bare.append(writer)
    writer.write(f"POST {path}?beta=true HTTP/1.1\r\nHost: localhost\r\n{line}\r\n\r\n".encode())
    head, _, body = (await soon(reader.read())).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nrequest-id: " in head) is path.startswith(MESSAGES)
    assert error_of(MESSAGES if path.startswith(MESSAGES) else path, body)["message"]


@pytest.mark.parametrize("path", ALL)
async def test_a_model_that_does_not_exist_is_not_found_in_any_dialect(fleet: FakeFleet, path: str) -> None:
    answer = await (await fleet.gateway(M)).post(asking(path, model="claude-y"), path)

    assert answer.status_code == 404
    assert "did you mean claude-x?" in error_of(path, answer.content)["message"]


@pytest.mark.parametrize("path", TRANSLATED)
async def test_an_answer_that_cannot_be_translated_is_the_node_s_fault(fleet: FakeFleet, path: str) -> None:
    (await fleet.node()).script(lambda call: call.respond(200, {"object": "chat.completion", "choices": []}))
    answer = await (await fleet.gateway()).post(asking(path), path)

    assert answer.status_code == 502
    assert error_of(path, answer.content)["message"]


# failures, within a stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL)
async def test_a_node_that_dies_in_mid_stream_is_an_error_in_the_dialect(fleet: FakeFleet, path: str) -> None:
    a, b = await speaking(fleet, "a"), await speaking(fleet, "b")
    a.script(lambda call: begin(call, OPENING + BEGINNING))
    body = await read(await fleet.gateway(), path, goes_on="never")

    kind, message = error_in(path, body)
    assert kind in ("api_error", "server_error", "upstream_connection_error")
    assert "the node closed the connection" in message
    assert b"hel" in body
    assert b.asked() == []


@pytest.mark.parametrize("path", ALL)
async def test_a_stream_that_just_stops_is_not_taken_for_whole(fleet: FakeFleet, path: str) -> None:
    """Neither with `[DONE]` and no trailer, nor without either."""
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    for stream in (OPENING + hub_stream(*CHUNKS), OPENING + BEGINNING):
        node.script(partial(tell, stream=stream))
        assert "ended before it was whole" in error_in(path, await read(gateway, path))[1]


@pytest.mark.parametrize("path", ALL)
async def test_a_node_that_falls_silent_is_an_error_in_the_dialect(fleet: FakeFleet, path: str) -> None:
    (await fleet.node()).script(lambda call: begin(call, OPENING + BEGINNING, close=False))
    body = await read(await fleet.gateway(stall_seconds=0.05), path)

    assert "the node sent nothing" in error_in(path, body)[1]


@pytest.mark.parametrize("path", ALL)
async def test_an_error_that_a_node_tells_in_its_stream_is_told_once(fleet: FakeFleet, path: str) -> None:
    broken = openai_event(UpstreamFailed("the engine's process ended", code="engine_failed"))
    (await fleet.node()).script(partial(tell, stream=OPENING + BEGINNING + broken + FAILED))
    gateway = await fleet.gateway()
    body = await read(gateway, path, goes_on="never")

    assert error_in(path, body)[1] == "the engine's process ended"
    assert body.count(b"the engine's process ended") == 1
    assert await gateway.sample("cortex_request_errors_total", model="m", node="a", code="stream_error") == 1


@pytest.mark.parametrize("path", ALL)
async def test_after_an_error_in_a_stream_the_connection_is_closed(fleet: FakeFleet, path: str) -> None:
    (await fleet.node()).script(lambda call: begin(call, OPENING + BEGINNING))
    gateway = await fleet.gateway()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    gateway.bare.append(writer)
    body = asking(path, stream=True)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)

    assert (await soon(reader.read())).endswith(b"\n\n\r\n0\r\n\r\n")


# elsewhere, while there is still time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("said", [b"", KEEP_ALIVE, OPENING, OPENING + KEEP_ALIVE, OPENING + b"data: {"])
async def test_a_node_that_dies_before_its_first_chunk_is_followed_by_the_next(
    fleet: FakeFleet, path: str, said: bytes
) -> None:
    a, b = await speaking(fleet, "a"), await speaking(fleet, "b")
    a.script(lambda call: begin(call, said) if said else begin(call, KEEP_ALIVE))
    body = await read(await fleet.gateway(), path)

    assert (len(a.asked()), len(b.asked())) == (1, 1)
    assert text_in(path, body) == "hello ä"
    assert body.count(b"event: message_start") == (path == MESSAGES)
    assert body.count(b"event: response.created") == (path == RESPONSES)


async def test_the_opening_of_the_node_that_answers_is_the_one_that_counts(fleet: FakeFleet) -> None:
    a, _ = await speaking(fleet, "a"), await speaking(fleet, "b")
    a.script(lambda call: begin(call, opening_comment(Opening(999))))
    events = events_of(await read(await fleet.gateway(), MESSAGES))

    usage = events[0]["message"]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (8, 4)


# silence --------------------------------------------------------------------------------------------------------------


def alive(path: str, heard: bytes) -> int:
    """Return how many signs of life of the dialect are in *heard*."""
    sign = {MESSAGES: b"event: ping\n", RESPONSES: b"event: response.in_progress\n", CHAT: b": "}[path]
    return heard.count(sign)


async def heard_until(gateway: Gateway, path: str, enough: Callable[[bytes], object], go: asyncio.Event) -> bytes:
    """Return a stream's whole body; *go* is set once what has been heard is *enough*."""
    heard = b""
    async with gateway.stream(asking(path, stream=True), path) as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_raw()
        while not enough(heard):
            heard += await soon(anext(pieces))
        go.set()
        return heard + b"".join([piece async for piece in pieces])


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("opened", [False, True])
async def test_a_long_prefill_is_filled_with_signs_of_life(
    fleet: FakeFleet, impatient: None, path: str, opened: bool
) -> None:
    going = asyncio.Event()

    async def late(call: Call) -> None:
        await call.open_events()
        if opened:
            await call.events(OPENING)
        await going.wait()
        await call.events(TOLD)
        await call.close_events()

    (await fleet.node()).script(late)
    heard = await heard_until(await fleet.gateway(), path, lambda heard: alive(path, heard) >= 4, going)

    assert text_in(path, heard) == "hello ä"
    assert heard.count(b"event: response.created") == (path == RESPONSES)


@pytest.mark.parametrize("path", ALL)
async def test_a_load_is_told_of_while_it_lasts(fleet: FakeFleet, impatient: None, path: str) -> None:
    node, going = await fleet.node("a", other="ready"), asyncio.Event()
    node.script(tell)

    async def load(call: Call) -> None:
        await going.wait()
        await node.load(call)

    node.script(load, "/models/load")
    gateway = await fleet.gateway(M)
    heard = await heard_until(gateway, path, lambda heard: alive(path, heard) >= 4 and b": loading m" in heard, going)

    assert text_in(path, heard) == "hello ä"


@pytest.mark.parametrize("path", ALL)
async def test_a_queue_is_told_of_while_it_lasts(fleet: FakeFleet, impatient: None, path: str) -> None:
    """All four slots of the node are taken, and a fifth request waits at the gateway."""
    node, going = await fleet.node(), asyncio.Event()

    async def busy(call: Call) -> None:
        await going.wait()
        await tell(call)

    node.script(busy)
    gateway = await fleet.gateway()
    others = [asyncio.ensure_future(read(gateway, CHAT)) for _ in range(4)]
    await until(lambda: len(node.asked()) == 4)
    heard = await heard_until(gateway, path, lambda heard: alive(path, heard) >= 4, going)
    await soon(asyncio.gather(*others))

    assert text_in(path, heard) == "hello ä"


@pytest.mark.parametrize("path", ALL)
async def test_a_refusal_after_the_first_sign_of_life_is_an_event(fleet: FakeFleet, impatient: None, path: str) -> None:
    going = asyncio.Event()

    async def refuse(call: Call) -> None:
        await going.wait()
        await call.refuse(400, "invalid_value", "what you sent")

    (await fleet.node()).script(refuse)
    heard = await heard_until(await fleet.gateway(), path, lambda heard: alive(path, heard), going)

    assert error_in(path, heard)[1] == "what you sent"


# clients that leave ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRANSLATED)
@pytest.mark.parametrize("said", [b"", OPENING, OPENING + BEGINNING])
async def test_a_client_that_leaves_a_stream_ends_the_work_at_the_node(
    fleet: FakeFleet, path: str, said: bytes
) -> None:
    node, there, left = await fleet.node(), asyncio.Event(), asyncio.Event()

    async def work(call: Call) -> None:
        await call.open_events()
        if said:
            await call.events(said)
        there.set()
        await call.caller_left()
        left.set()

    node.script(work)
    gateway = await fleet.gateway()
    async with gateway.stream(asking(path, stream=True), path):
        await soon(there.wait())

    await asyncio.wait_for(left.wait(), 1)
    assert await gateway.sample("cortex_client_disconnects_total", model="m", node="a") == 1
    assert gateway.cortex.steward.reconciler.doors.flights == {}


@pytest.mark.parametrize("path", TRANSLATED)
async def test_a_client_that_leaves_a_whole_answer_ends_the_work_at_the_node(fleet: FakeFleet, path: str) -> None:
    node, there, left = await fleet.node(), asyncio.Event(), asyncio.Event()

    async def work(call: Call) -> None:
        there.set()
        await call.caller_left()
        left.set()

    node.script(work)
    gateway = await fleet.gateway()
    asking_it = asyncio.ensure_future(gateway.post(asking(path), path))
    await soon(there.wait())
    asking_it.cancel()

    await asyncio.wait_for(left.wait(), 1)


@pytest.mark.parametrize("path", ALL)
async def test_what_failed_is_over_at_the_node_before_a_client_can_ask_for_it_again(
    fleet: FakeFleet, path: str
) -> None:
    """Claude Code asks for the whole at once, without streaming: a generation must not run beside its own repeat."""
    node, happened = await fleet.node(), list[str]()

    async def stall_then_answer(call: Call) -> None:
        if not call.json().get("stream"):
            happened.append("asked again")
            await tell(call)
            return
        await begin(call, BEGINNING, close=False)
        happened.append("over")

    node.script(stall_then_answer)
    gateway = await fleet.gateway(stall_seconds=0.05)
    error_in(path, await read(gateway, path))
    again = await gateway.post(asking(path), path)

    assert again.status_code == 200
    assert happened == ["over", "asked again"]


# what was ignored -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TRANSLATED)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_ignored_here_and_at_the_node_is_named_together(
    fleet: FakeFleet, path: str, stream: bool
) -> None:
    async def answer(call: Call) -> None:
        if stream:
            await call.open_events(b"x-cortex-ignored: seed\r\n")
            await call.events(TOLD)
            await call.close_events()
        else:
            await call.respond(200, hub_answer(*CHUNKS), x_cortex_ignored="seed")

    (await fleet.node()).script(answer)
    got = await (await fleet.gateway()).post(asking(path, stream=stream, unheard_of=1, other=2), path)

    assert got.headers["x-cortex-ignored"] == "other, unheard_of, seed"


@pytest.mark.parametrize("path", TRANSLATED)
async def test_what_is_ignored_is_named_although_the_head_goes_out_before_the_node_s(
    fleet: FakeFleet, impatient: None, path: str
) -> None:
    (await fleet.node()).script(Call.caller_left)
    gateway = await fleet.gateway()
    async with gateway.stream(asking(path, stream=True, unheard_of=1), path) as answer:
        assert answer.headers["x-cortex-ignored"] == "unheard_of"


# responses that are kept ----------------------------------------------------------------------------------------------


async def respond(gateway: Gateway, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Return the response to a request with *fields*."""
    if stream:
        found: dict[str, Any] = events(await read(gateway, RESPONSES, **fields))[-1]["response"]
        return found
    answer = await gateway.post(asking(RESPONSES, **fields), RESPONSES)
    assert answer.status_code == 200, answer.text
    return check_response(answer.json())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_can_be_asked_for_again_and_gone_on_from(fleet: FakeFleet, stream: bool) -> None:
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    first = await respond(gateway, stream=stream, input="one", instructions="be brief")

    assert (await gateway.get(f"{RESPONSES}/{first['id']}")).json() == first

    second = await respond(gateway, stream=stream, input="two", previous_response_id=first["id"])
    third = await respond(gateway, stream=stream, input="three", previous_response_id=second["id"])

    assert third["previous_response_id"] == second["id"]
    messages = node.asked()[-1].json()["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert "be brief" not in str(messages)


async def test_an_item_that_is_only_named_is_the_one_that_was_answered(fleet: FakeFleet) -> None:
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    first = await respond(gateway)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await respond(gateway, input=[{"role": "user", "content": "hi"}, reference, {"role": "user", "content": "on"}])

    messages = node.asked()[-1].json()["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert "hello ä" in str(messages[1]["content"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_is_not_to_be_stored_is_not(fleet: FakeFleet, stream: bool) -> None:
    await speaking(fleet)
    gateway = await fleet.gateway()
    first = await respond(gateway, stream=stream, store=False)
    assert (await gateway.get(f"{RESPONSES}/{first['id']}")).status_code == 404

    answer = await gateway.post(asking(RESPONSES, previous_response_id=first["id"]), RESPONSES)
    error = error_of(RESPONSES, answer.content)
    assert (answer.status_code, error["code"]) == (400, "previous_response_not_found")
    assert error["param"] == "previous_response_id"


async def test_an_answer_that_failed_is_not_kept(fleet: FakeFleet) -> None:
    broken = openai_event(UpstreamFailed("the engine's process ended"))
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    for script in (
        partial(tell, stream=OPENING + BEGINNING + broken + FAILED),
        partial(begin, stream=OPENING + BEGINNING),
    ):
        node.script(script)
        failed = await respond(gateway, stream=True)
        assert failed["status"] == "failed"
        assert (await gateway.get(f"{RESPONSES}/{failed['id']}")).status_code == 404


async def test_a_client_that_leaves_right_after_the_last_event_was_served(fleet: FakeFleet) -> None:
    """As some do, before the transfer has ended; what they go on from is there."""
    node = await speaking(fleet)
    gateway = await fleet.gateway()
    async with gateway.stream(asking(RESPONSES, stream=True), RESPONSES) as answer:
        heard = b""
        pieces = answer.aiter_raw()
        while b"event: response.completed" not in heard or not heard.endswith(b"\n\n"):
            heard += await soon(anext(pieces))

    response = events(heard)[-1]["response"]
    await respond(gateway, previous_response_id=response["id"])
    assert len(node.asked()[-1].json()["messages"]) == 3
    assert await gateway.sample("cortex_client_disconnects_total", model="m", node="a") == 0


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("failed", [False, True])
async def test_a_client_that_has_its_whole_answer_may_go_before_the_transfer_ends(
    fleet: FakeFleet, path: str, failed: bool
) -> None:
    """As Codex and the SDKs do after the last event, of a failure too: it is booked as what it was."""
    broken = openai_event(UpstreamFailed("the engine's process ended"))
    last = b"process ended" if failed else b"[DONE]" if path == CHAT else b"message_stop"

    async def linger(call: Call) -> None:
        opening = OPENING if path == MESSAGES else b""
        stream = BEGINNING + broken + FAILED if failed else TOLD.removeprefix(OPENING)
        await begin(call, opening + stream, close=False)

    (await fleet.node()).script(linger)
    gateway = await fleet.gateway()
    async with gateway.stream(asking(path, stream=True), path, x_cortex_continue="never") as answer:
        heard, pieces = b"", answer.aiter_raw()
        while last not in heard:
            heard += await soon(anext(pieces))

    assert await gateway.sample("cortex_client_disconnects_total", model="m", node="a") == 0
    assert await gateway.sample("cortex_requests_total", model="m", node="a") == 1
    errors = await gateway.sample("cortex_request_errors_total", model="m", node="a", code="stream_error")
    assert errors == failed
    (line,) = fleet.events("request_finished")
    assert line["status"] == 200
