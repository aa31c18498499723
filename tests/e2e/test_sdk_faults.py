"""Official SDKs where things go wrong: refusals, cold starts, full and failing fleets, and clients that leave."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import anthropic
import anyio
import httpx2
import openai
import pytest

from fake_fleet import Call, FakeFleet
from harness import Daemon, Fleet, until
from sdks import HI, MODELS, anthropic_client, function, openai_client, says, tool
from wire.hub import chunk, hub_answer


@pytest.fixture(scope="module")
def neuron(fleet: Fleet) -> Daemon:
    return fleet.neuron("a")


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, neuron: Daemon) -> Daemon:
    return fleet.gateway(MODELS, {"a": neuron.port})


@pytest.fixture(scope="module")
def oai(gateway: Daemon) -> Iterator[openai.OpenAI]:
    with openai_client(gateway.url) as client:
        yield client


@pytest.fixture(scope="module")
def ant(gateway: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(gateway.url) as client:
        yield client


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


# errors ---------------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_match(
    oai: openai.OpenAI, ant: anthropic.Anthropic
) -> None:
    asked = [says("word " * 500)]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 200 maximum"):
        ant.messages.create(model="tight", messages=asked, max_tokens=9)
    with (
        pytest.raises(anthropic.APIStatusError, match=r"prompt is too long: \d+ tokens > 200 maximum"),
        ant.messages.stream(model="tight", messages=asked, max_tokens=9) as stream,
    ):
        stream.get_final_message()
    for ask in (
        lambda: oai.chat.completions.create(model="tight", messages=asked),
        lambda: oai.responses.create(model="tight", input=asked),
        lambda: oai.embeddings.create(model="tight", input="word " * 500),
    ):
        with pytest.raises(openai.BadRequestError) as long:
            ask()
        assert long.value.code == "context_length_exceeded"


def test_refusals_are_each_sdk_s_own_exceptions(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="did you mean") as unknown:
        ant.messages.create(model="org/simm", messages=[says()], max_tokens=9)
    assert unknown.value.request_id
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        ant.messages.create(model="sim", messages=[says()], max_tokens=0)
    with pytest.raises(anthropic.InternalServerError, match="the weights are not there") as failed:
        ant.messages.create(model="broken", messages=[says()], max_tokens=9)
    assert failed.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.NotFoundError, match="did you mean") as missing:
        oai.responses.create(model="org/simm", input=HI)
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        oai.responses.create(model="sim", input=HI, temperature=99)
    assert wrong.value.param == "temperature"


def test_an_engine_that_dies_in_mid_stream_raises_in_every_sdk(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    """Each asks for something else: a request that two engines died of is not tried on a third."""
    never = {"x-cortex-continue": "never"}
    with pytest.raises(openai.APIError, match="engine"):
        list(
            oai.chat.completions.create(
                model="fragile", messages=[says("#tokens 50")], stream=True, extra_headers=never
            )
        )
    with (
        pytest.raises(anthropic.APIStatusError, match="engine"),
        ant.messages.stream(
            model="fragile", messages=[says("#tokens 51")], max_tokens=99, extra_headers=never
        ) as stream,
    ):
        stream.get_final_message()
    events = list(oai.responses.create(model="fragile", input="#tokens 52", stream=True, extra_headers=never))
    assert events[-1].type == "response.failed"
    assert "engine" in (events[-1].response.error.message if events[-1].response.error else "")


def test_an_engine_that_dies_of_whatever_goes_on_raises_too(oai: openai.OpenAI) -> None:
    """The engine that goes on with the answer dies of it as well, and nobody tries a third time."""
    with pytest.raises(openai.APIError, match="2 engine processes ended"):
        list(oai.chat.completions.create(model="fragile", messages=[says("#tokens 53")], stream=True))


# waiting --------------------------------------------------------------------------------------------------------------


def unload(neuron: Daemon, model: str) -> None:
    httpx2.post(neuron.url + "/models/unload", json={"model_id": model}, timeout=30, trust_env=False)


@pytest.mark.parametrize("dialect", ["chat", "messages", "responses"])
def test_a_cold_start_is_only_a_longer_stream_to_an_sdk(
    oai: openai.OpenAI, ant: anthropic.Anthropic, neuron: Daemon, dialect: str
) -> None:
    unload(neuron, "cold")
    asked = "#echo awake"
    began = time.monotonic()
    if dialect == "chat":
        pieces = oai.chat.completions.create(model="cold", messages=[says(asked)], stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    elif dialect == "messages":
        with ant.messages.stream(model="cold", messages=[says(asked)], max_tokens=99) as stream:
            text = stream.get_final_text()
    else:
        with oai.responses.stream(model="cold", input=asked) as events:
            text = events.get_final_response().output_text

    assert text == "awake"
    assert time.monotonic() - began > 2


# leaving --------------------------------------------------------------------------------------------------------------

LONG = "#tokens 2000"


def ends_of(neuron: Daemon, model: str, after: int = 0, count: int = 0) -> list[str]:
    """Return how the generations of *model* ended, but for the first *after*; nothing until there are *count*."""
    ends = [line["reason"] for line in neuron.events("generation_finished") if line["model"] == model][after:]
    return ends if len(ends) >= count else []


def leave_chat(oai: openai.OpenAI, _: anthropic.Anthropic) -> None:
    with oai.chat.completions.create(model="slow", messages=[says(LONG)], stream=True) as stream:
        list(islice(stream, 3))


def leave_messages(_: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    with ant.messages.stream(model="slow", messages=[says(LONG)], max_tokens=4096) as stream:
        list(islice(stream.text_stream, 3))


def leave_response(oai: openai.OpenAI, _: anthropic.Anthropic) -> None:
    with oai.responses.create(model="slow", input=LONG, stream=True) as stream:
        list(islice(stream, 6))


Leave = Callable[[openai.OpenAI, anthropic.Anthropic], None]


@pytest.mark.parametrize("leave", [leave_chat, leave_messages, leave_response])
def test_closing_a_stream_frees_its_slot_at_once(
    oai: openai.OpenAI, ant: anthropic.Anthropic, neuron: Daemon, leave: Leave
) -> None:
    """The model has one slot, and what was left would have taken a hundred seconds more."""
    before = len(ends_of(neuron, "slow"))
    leave(oai, ant)
    began = time.monotonic()
    oai.chat.completions.create(model="slow", messages=[says("#tokens 2")])

    assert time.monotonic() - began < 2
    ends = until("both have ended", lambda: ends_of(neuron, "slow", before, 2), 5)
    assert ends == ["aborted", "stop"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_stream_that_a_client_gave_up_is_over_before_the_same_is_asked_for_whole(
    gateway: Daemon, neuron: Daemon, path: str
) -> None:
    """As Claude Code does at any fault: the same body at once, without `stream`."""
    body = {"model": "slow", "max_tokens": 20, "messages": [says("#tokens 20")]}
    names = [f"{path.rpartition('/')[2]}-{which}" for which in ("streamed", "whole")]
    with httpx2.stream(
        "POST", gateway.url + path, json={**body, "stream": True}, headers={"x-request-id": names[0]}, trust_env=False
    ) as answer:
        next(answer.iter_raw())
    whole = httpx2.post(gateway.url + path, json=body, headers={"x-request-id": names[1]}, timeout=30, trust_env=False)

    assert whole.status_code == 200
    trail = [(line["request"], line["event"]) for line in neuron.log() if line.get("request") in names]
    assert trail.index((names[0], "generation_finished")) < trail.index((names[1], "generation_started"))


# retries --------------------------------------------------------------------------------------------------------------


def test_sdks_come_back_when_a_full_fleet_tells_them_to(fleet: Fleet, gateway: Daemon, neuron: Daemon) -> None:
    """No request may wait at this gateway, and the model's one slot is taken for a second and a half."""
    narrow = fleet.gateway(MODELS, {"a": neuron.port}, config="[limits]\nqueue_depth = 0", name="narrow")
    oai, ant = openai_client(narrow.url, retries=4), anthropic_client(narrow.url, retries=4)
    asked = [says("#tokens 2")]
    with oai, ant, ThreadPoolExecutor(4) as pool:
        with oai.chat.completions.create(model="slow", messages=[says("#tokens 30")], stream=True) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as full:
                oai.with_options(max_retries=0).chat.completions.create(model="slow", messages=asked)
            with pytest.raises(anthropic.RateLimitError) as busy:
                ant.with_options(max_retries=0).messages.create(model="slow", messages=asked, max_tokens=9)
            later = [
                pool.submit(lambda: bool(oai.chat.completions.create(model="slow", messages=asked).choices)),
                pool.submit(lambda: bool(ant.messages.create(model="slow", messages=asked, max_tokens=9).content)),
            ]
            list(stream)
        assert all(answer.result() for answer in later)

    assert int(full.value.response.headers["retry-after"]) >= 1
    assert int(busy.value.response.headers["retry-after"]) >= 1
    assert busy.value.type == "rate_limit_error"


# A node is on its way out, or crashed, and a second later is there again.
PASSING = [(429, "rate_limit_exceeded"), (503, "shutting_down"), (503, "engine_failed"), (502, "upstream_failed")]


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "code"), PASSING)
async def test_sdks_come_back_when_what_was_wrong_has_passed(status: int, code: str) -> None:
    refused: set[str] = set()

    async def answer(call: Call) -> None:
        who = call.json()["messages"][0]["content"]
        if who not in refused:
            refused.add(who)
            await call.refuse(status, code, retry_after="1")
        else:
            await call.respond(200, hub_answer(chunk({"content": who}), chunk(reason="stop")))

    async with FakeFleet() as fakes:
        (await fakes.node()).script(answer)
        url = (await fakes.gateway()).url
        async with (
            openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=1) as oai,
            anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=1) as ant,
        ):
            told: list[object] = []

            async def keep(text: Awaitable[object]) -> None:
                told.append(await text)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep, oai.chat.completions.create(model="m", messages=[says("one")]))
                tasks.start_soon(keep, oai.responses.create(model="m", input="two"))
                tasks.start_soon(keep, ant.messages.create(model="m", max_tokens=9, messages=[says("three")]))

    assert len(told) == 3
    assert len(refused) == 3


# without threads ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_asynchronous_clients_are_served_alike(gateway: Daemon) -> None:
    asked = "#think #tools 2"
    async with (
        openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as oai,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as ant,
    ):
        async with oai.chat.completions.stream(
            model="sim", messages=[says(asked)], tools=[function("weather")]
        ) as chat:
            completion = await chat.get_final_completion()
        async with ant.messages.stream(
            model="sim", messages=[says(asked)], tools=[tool("weather")], max_tokens=999
        ) as stream:
            message = await stream.get_final_message()
        async with oai.responses.stream(model="sim", input=asked, tools=[function("weather", flat=True)]) as events:
            response = await events.get_final_response()
        assert (await ant.messages.count_tokens(model="sim", messages=[says()])).input_tokens > 0
        assert [m.id async for m in ant.models.list()]

    assert len(completion.choices[0].message.tool_calls or ()) == 2
    assert [block.type for block in message.content] == ["tool_use", "tool_use"]
    assert [item.type for item in response.output] == ["reasoning", "function_call", "function_call"]


@pytest.mark.anyio
async def test_an_asynchronous_client_that_is_cancelled_frees_its_slot(gateway: Daemon, neuron: Daemon) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as ant:
        async with ant.messages.stream(model="slow", messages=[says(LONG)], max_tokens=4096) as stream:
            async for _ in stream.text_stream:
                break
        await ant.messages.create(model="slow", messages=[says("#tokens 2")], max_tokens=9, timeout=3)


def test_nothing_crashed_and_nobody_was_taken_for_gone_who_was_not(gateway: Daemon, neuron: Daemon) -> None:
    """Of the requests here, only those of the tests above that leave were left."""
    assert gateway.events("request_crashed") == []
    assert neuron.events("request_crashed") == []
    assert {line["model"] for line in gateway.events("request_finished") if line["status"] == 499} == {"slow"}
