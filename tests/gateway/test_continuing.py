"""An answer that breaks off goes on from another replica, in every dialect, or ends in an honest error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import BadRequest, EngineFailed, UpstreamFailed
from cortex.gateway.continuing import MOST, Continuing
from cortex.gateway.dialects import Asked
from cortex.wire.continuation import CannotContinue, RestDiffers
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.envelopes import MESSAGES
from cortex.wire.errors import DONE, openai_event
from cortex.wire.openai import CHAT, COMPLETION
from cortex.wire.sse import Trailer, data_event, trailer_event
from cortex.wire.translation import Opening, opening_comment
from fake_fleet import Call, FakeFleet, FakeNode, Gateway, soon

pytestmark = pytest.mark.anyio

RESPONSES = "/v1/responses"
PIECES = ("Once", " upon", " a", " time", ".")
WHOLE = "".join(PIECES)


def chunk(delta: dict[str, Any], reason: str | None = None, answer: str = "a") -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    whole = {"id": answer, "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return data_event(json.dumps(whole).encode())


def said(*pieces: str, answer: str = "a") -> bytes:
    return chunk({"role": "assistant", "content": ""}, answer=answer) + b"".join(
        chunk({"content": piece}, answer=answer) for piece in pieces
    )


def ended(usage: Usage, answer: str = "b") -> bytes:
    told = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    counts = data_event(json.dumps({"id": answer, "choices": [], "usage": told}).encode())
    trailer = trailer_event(Trailer(usage, Timings(), "stop"))
    return chunk({}, "stop", answer) + counts + DONE + trailer


def asking(path: str, **fields: Any) -> bytes:
    own: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    if path == MESSAGES:
        own["max_tokens"] = 100
    if path == RESPONSES:
        own = {"input": "hi"}
    return json.dumps({"model": "m", "stream": True, **own, **fields}).encode()


async def read(gateway: Gateway, path: str = CHAT, *, headers: dict[str, str] | None = None, **fields: Any) -> bytes:
    async with gateway.stream(asking(path, **fields), path, **(headers or {})) as answer:
        assert answer.status_code == 200
        return await soon(answer.aread())


def text_of(path: str, body: bytes) -> str:
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    if path == CHAT:
        return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    if path == MESSAGES:
        return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


async def breaks_after(node: FakeNode, pieces: int, end: bytes = b"") -> None:
    """Have *node* begin the answer, and hang up, or end in the error event *end*."""

    async def script(call: Call) -> None:
        await call.open_events()
        opening = opening_comment(Opening(7)) if "x-cortex-opening" in dict(call.headers) else b""
        await call.events(opening + said(*PIECES[:pieces]) + end)
        call.hang_up()

    node.script(script)


async def goes_on(node: FakeNode) -> None:
    """Have *node* say what is missing of the answer, as an engine does that is given its beginning."""

    async def script(call: Call) -> None:
        begun = call.json()["messages"][-1]
        beginning = begun["content"] if begun["role"] == "assistant" else ""
        count = next(at for at in range(len(PIECES) + 1) if "".join(PIECES[:at]) == beginning)
        rest = PIECES[count:]
        await call.open_events()
        await call.events(said(*rest, answer="b") + ended(Usage(7 + count, len(rest))))
        await call.close_events()

    node.script(script)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("cut", range(1, len(PIECES) + 1))
@pytest.mark.parametrize("temperature", [0, 1])
async def test_an_answer_goes_on_from_another_replica(fleet: FakeFleet, path: str, cut: int, temperature: int) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(a, cut)
    await goes_on(b)
    gateway = await fleet.gateway()
    body = await read(gateway, path, temperature=temperature)

    assert text_of(path, body) == WHOLE
    assert b'"error":{' not in body
    assert await gateway.sample("cortex_continuations_total", model="m", node="a") == 1
    assert await gateway.sample("cortex_requests_total", model="m", node="b") == 1
    assert await gateway.sample("cortex_prompt_tokens_total", model="m", node="b") == 7
    assert await gateway.sample("cortex_completion_tokens_total", model="m", node="b") == len(PIECES)


async def test_a_client_hears_of_it_in_a_comment_and_the_log_says_where_it_broke_off(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(a, 2)
    await goes_on(b)
    gateway = await fleet.gateway()
    body = await read(gateway)

    assert b": broken off after 2 tokens; another replica goes on\n\n" in body
    (event,) = fleet.events("answer_goes_on")
    assert (event["node"], event["said"]) == ("a", 2)
    await gateway.idle()
    (line,) = fleet.events("request_finished")
    assert (line["node"], line["continued"], line["status"]) == ("b", 1, 200)


async def test_an_engine_that_dies_on_a_node_that_lives_is_gone_on_with_too(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(
        a, 3, openai_event(EngineFailed("it died")) + trailer_event(Trailer(Usage(), Timings(), "error"))
    )
    await goes_on(b)

    assert text_of(CHAT, await read(await fleet.gateway())) == WHOLE
    (event,) = fleet.events("attempt_failed")
    assert (event["code"], event["error"]) == ("engine_failed", "it died")


async def test_nobody_left_to_go_on_is_the_error_that_broke_it_off(fleet: FakeFleet) -> None:
    await breaks_after(await fleet.node("a"), 2)
    body = await read(await fleet.gateway())

    assert text_of(CHAT, body.partition(b'data: {"error"')[0]) == "Once upon"
    assert b"closed the connection" in body
    assert b"[DONE]" not in body


@pytest.mark.parametrize("told", ["never"])
async def test_a_client_that_would_rather_hear_of_it_hears_of_it(fleet: FakeFleet, told: str) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(a, 2)
    await goes_on(b)
    body = await read(await fleet.gateway(), headers={"x_cortex_continue": told})

    assert b'data: {"error"' in body
    assert b.asked() == []


async def test_what_cannot_be_gone_on_with_ends_in_an_error_and_the_log_says_why(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(a, 2)
    await goes_on(b)
    body = await read(await fleet.gateway(), n=2)

    assert b'data: {"error"' in body
    assert b.asked() == []
    (event,) = fleet.events("answer_not_continued")
    assert "several choices" in event["reason"]


async def test_a_last_word_that_another_replica_says_differently_is_left_as_it_is(fleet: FakeFleet) -> None:
    """The second attempt is given all that was said, and says the rest."""
    a, b = await fleet.node("a"), await fleet.node("b")
    await breaks_after(a, 2)
    asked: list[str] = []

    async def differs(call: Call) -> None:
        asked.append(call.json()["messages"][-1]["content"])
        rest = (" more",) if len(asked) == 1 else (" again",)
        await call.open_events()
        await call.events(said(*rest, answer="b") + ended(Usage(9, 1)))
        await call.close_events()

    b.script(differs)
    c = await fleet.node("c")
    c.script(differs)
    body = await read(await fleet.gateway(), temperature=0)

    assert asked == ["Once", "Once upon"]
    assert text_of(CHAT, body) == "Once upon again"


# on its own -----------------------------------------------------------------------------------------------------------


def continuing(*pieces: str) -> Continuing:
    answer = Continuing(Asked("m", True, CHAT, asking(CHAT)))
    answer.take(said(*pieces))
    return answer


def test_an_answer_of_which_nothing_is_out_is_asked_for_anew() -> None:
    answer = Continuing(Asked("m", True, CHAT, asking(CHAT)))
    answer.take(openai_event(EngineFailed("it died")))

    assert answer.rest(EngineFailed("it died")) == asking(CHAT)
    assert answer.error is None


def test_what_any_replica_would_refuse_is_not_asked_of_another() -> None:
    with pytest.raises(CannotContinue, match="refuse it too"):
        continuing("a").rest(BadRequest("no"))


def test_an_answer_that_breaks_off_again_and_again_is_given_up() -> None:
    answer = continuing("a")
    for _ in range(MOST):
        answer.rest(UpstreamFailed("gone"))

    with pytest.raises(CannotContinue, match=f"{MOST} times"):
        answer.rest(UpstreamFailed("gone"))


def test_a_second_break_goes_on_from_all_that_was_said() -> None:
    answer = continuing("Once", " upon")
    answer.rest(UpstreamFailed("gone"))
    answer.take(said(" a", " time", answer="b"))

    body = json.loads(answer.rest(UpstreamFailed("gone")))

    assert body["messages"][-1]["content"] == "Once upon a time"
    assert answer.pieces == 4
    assert answer.usage(Usage(11, 1)) == Usage(7, 5)


def test_a_completion_goes_on_from_its_prompt() -> None:
    answer = Continuing(Asked("m", True, COMPLETION, b'{"prompt":"Once","model":"m"}'))
    answer.take(data_event(b'{"id":"a","choices":[{"index":0,"text":" upon"}]}'))

    assert json.loads(answer.rest(RestDiffers("no")))["prompt"] == "Once upon"
