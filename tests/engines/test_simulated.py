from __future__ import annotations

import asyncio
import base64
import math
import random
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.base import Event, LoadError
from cortex.engines.simulated import Simulated
from cortex.engines.simulated_answer import Wish, read_wish
from cortex.engines.simulated_schema import value_for
from cortex.engines.simulated_text import cut_at_stop, dice, prose, tokens_of
from cortex.wire import json
from cortex.wire.collect import Collector
from cortex.wire.engine_api import Chunk, Device, EngineSpec, Finished, Generate, Kind, Progress, Tokenize
from cortex.wire.openai import read_request

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
FAST = {"load_seconds": 0, "tokens_per_second": 1e6, "prefill_tokens_per_second": 1e9}
GPUS = tuple(Device(index=i, kind="simulated", name="gpu", memory_free_bytes=24 << 30) for i in (3, 4))
Ask = Callable[..., list[Event]]


def spec_of(context: int | None = None, **options: Any) -> EngineSpec:
    return EngineSpec(
        model="sim/model", engine="simulated", path="", devices=GPUS, context=context, options={**FAST, **options}
    )


async def started(spec: EngineSpec) -> Simulated:
    engine = Simulated()
    await engine.load(spec, lambda *_: None)
    return engine


def generate(kind: Kind, fields: dict[str, Any]) -> Generate:
    body = read_request(kind, json.encode({"model": "sim/model", **fields})).body
    return Generate("r1", kind, body, fields.get("n", 1))


def ask(kind: Kind, *, spec: EngineSpec | None = None, **fields: Any) -> list[Event]:
    async def run() -> list[Event]:
        engine = await started(spec or spec_of())
        return [event async for event in engine.generate(generate(kind, fields))]

    return asyncio.run(run())


def say(text: str, **fields: Any) -> list[Event]:
    return ask("chat", messages=[{"role": "user", "content": text}], **fields)


def chunks_of(events: list[Event]) -> list[dict[str, Any]]:
    return [json.decode_any(event.data) for event in events if isinstance(event, Chunk)]


def deltas_of(events: list[Event]) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks_of(events)]


def finished_of(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def choices_of(events: list[Event], kind: Kind = "chat") -> list[dict[str, Any]]:
    collector = Collector(kind)
    for event in events:
        if isinstance(event, Chunk):
            collector.add(event.data)
    choices: list[dict[str, Any]] = json.decode_any(collector.answer(finished_of(events).usage))["choices"]
    return choices


def message_of(events: list[Event]) -> dict[str, Any]:
    message: dict[str, Any] = choices_of(events)[0]["message"]
    return message


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


# loading


def test_a_load_takes_its_time_and_says_how_far_it_is() -> None:
    heard: list[tuple[str, int, int]] = []
    began = time.monotonic()

    info = asyncio.run(Simulated().load(spec_of(load_seconds=0.3), lambda *at: heard.append(at)))

    assert 0.3 <= time.monotonic() - began < 0.6
    assert len(heard) >= 4
    assert (heard[0], heard[-1]) == (("load", 0, 100), ("load", 100, 100))
    assert info.simulated
    assert info.notes == ("simulated: no model is behind this",)
    assert info.memory_bytes == 1 << 30


def test_a_load_can_be_cancelled() -> None:
    async def run() -> None:
        async with asyncio.timeout(0.1):
            await Simulated().load(spec_of(load_seconds=60), lambda *_: None)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_load_fails_as_declared() -> None:
    with pytest.raises(LoadError, match="the moon is full"):
        asyncio.run(started(spec_of(fail_load="the moon is full")))


def test_the_estimate_is_the_declared_memory_shared_by_the_devices() -> None:
    estimate = asyncio.run(Simulated().estimate(spec_of(memory_mb=2000)))

    assert estimate.bytes_per_device == {3: 1000 << 20, 4: 1000 << 20}


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 0},
        {"slots": 1.5},
        {"tokens_per_second": 0},
        {"tokens_per_second": math.nan},
        {"load_seconds": -1},
        {"load_seconds": math.inf},
        {"memory_mb": "much"},
        {"crash_after_tokens": True},
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=rf"options\.{next(iter(options))}"):
        asyncio.run(started(spec_of(**options)))


# speed


def test_the_declared_rate_is_held() -> None:
    """Against absolute deadlines: a late token does not delay those after it."""
    began = time.monotonic()

    events = say("#tokens 100", spec=spec_of(tokens_per_second=400))

    assert 0.25 <= time.monotonic() - began < 0.5
    assert 245 <= finished_of(events).timings.decode_ms < 500


def test_a_prefill_takes_its_time_in_steps() -> None:
    events = ask("completion", prompt="word " * 300, max_tokens=1, spec=spec_of(prefill_tokens_per_second=1000))

    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == [0, 50, 100, 150, 200, 250, 300, 301]
    assert {event.total for event in progress} == {301}
    assert finished_of(events).timings.prefill_ms >= 300


def test_a_prefill_can_be_closed() -> None:
    async def run() -> float:
        engine = await started(spec_of(prefill_tokens_per_second=1))
        events = engine.generate(generate("completion", {"prompt": "word " * 300}))
        assert await anext(events) == Progress("r1", "prefill", 0, 301)
        began = time.monotonic()
        await events.aclose()
        return time.monotonic() - began

    assert asyncio.run(run()) < 0.1


def test_a_fast_answer_lets_others_run() -> None:
    """However far behind its deadlines it is."""

    async def run() -> int:
        engine = await started(spec_of())
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(other())
            async for _ in engine.generate(generate("completion", {"prompt": "#tokens 200"})):
                pass
            task.cancel()
        return turns

    assert asyncio.run(run()) >= 200


def test_it_crashes_where_told() -> None:
    code = """
import asyncio, sys
from cortex.engines.simulated import Simulated
from cortex.wire.engine_api import EngineSpec, Generate

async def main():
    engine = Simulated()
    options = {"load_seconds": 0, "crash_after_tokens": 3}
    await engine.load(EngineSpec(model="m", engine="simulated", path="", devices=(), options=options), print)
    async for event in engine.generate(Generate("r", "completion", b'{"prompt": "x"}')):
        print("event", flush=True)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 70
    assert ended.stdout.count("event") == 2 + 3  # progress, then tokens


# what is said


def test_the_same_request_gets_the_same_answer_and_a_seed_another() -> None:
    texts = [message_of(say("hello", seed=seed))["content"] for seed in (1, 1, 2)]

    assert texts[0] == texts[1] != texts[2]


def test_choices_differ_and_are_interleaved() -> None:
    events = say("hello", n=3, max_tokens=4)

    contents = [choice["message"]["content"] for choice in choices_of(events)]
    assert len(set(contents)) == 3
    indexes = [chunk["choices"][0]["index"] for chunk in chunks_of(events)]
    assert indexes[:6] == [0, 1, 2, 0, 1, 2]
    assert finished_of(events).usage.completion_tokens == 12


def test_the_default_length_is_modest() -> None:
    events = say("hello")

    assert finished_of(events).usage.completion_tokens == 64
    assert finished_of(events).reason == "stop"


def test_a_chunk_has_the_shape_of_openai() -> None:
    role, token, *_, end = chunks_of(say("#echo hi there", spec=spec_of()))

    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", role.pop("id"))
    assert isinstance(role.pop("created"), int)
    assert role == {
        "object": "chat.completion.chunk",
        "model": "sim/model",
        "system_fingerprint": "simulated",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }
    assert token["choices"] == [{"index": 0, "delta": {"content": "hi"}, "logprobs": None, "finish_reason": None}]
    assert end["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


def test_echo_answers_exactly_its_text() -> None:
    text = "a  #tool\n  ünï 🎈 trailing \n"

    assert message_of(say(f"please #echo {text}"))["content"] == text


def test_an_echo_of_nothing_still_ends() -> None:
    events = say("#echo ")

    assert message_of(events)["content"] == ""
    assert finished_of(events).reason == "stop"


def test_think_reasons_first() -> None:
    events = say("#think #echo done")

    keys = [next(iter(delta), None) for delta in deltas_of(events)]
    assert keys == ["role"] + ["reasoning_content"] * 16 + ["content", None]
    assert message_of(events)["content"] == "done"
    assert finished_of(events).usage.completion_tokens == 17


def test_tokens_are_as_many_as_asked_for() -> None:
    events = say("#tokens 300", max_tokens=1000)

    assert finished_of(events).usage.completion_tokens == 300
    assert len(tokens_of(message_of(events)["content"])) == 300


def test_a_shorter_answer_is_the_beginning_of_a_longer_one() -> None:
    short, long = (message_of(say("hello", max_tokens=limit))["content"] for limit in (7, 30))

    assert long.startswith(short)


def test_an_answer_ends_at_the_end_of_the_context() -> None:
    events = say("#tokens 500", spec=spec_of(context=40))

    usage = finished_of(events).usage
    assert usage.prompt_tokens + usage.completion_tokens == 40
    assert finished_of(events).reason == "length"


def test_a_prompt_beyond_the_context_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded, match="is 40 tokens"):
        say("word " * 50, spec=spec_of(context=40))


def test_tools_are_counted_by_tokenize_as_by_an_answer() -> None:
    messages = [{"role": "user", "content": "hello"}]
    asked = {"messages": messages, "tools": [tool("look", city={"type": "string"})]}

    async def count(body: dict[str, Any]) -> int:
        engine = await started(spec_of())
        return int(json.decode_any(await engine.tokenize(Tokenize("t", json.encode(body))))["count"])

    assert asyncio.run(count(asked)) == finished_of(ask("chat", **asked)).usage.prompt_tokens
    assert asyncio.run(count(asked)) > asyncio.run(count({"messages": messages}))


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
def test_reasoning_can_be_switched_off(fields: dict[str, Any], thinks: bool) -> None:
    assert ("reasoning_content" in message_of(say("#think hello", **fields))) is thinks


def test_text_that_only_looks_like_a_call_stays_text() -> None:
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    message = message_of(say(f"#echo {call}", tools=[tool("look")]))

    assert message == {"role": "assistant", "content": call}


def test_an_embedding_is_shortened_when_asked_for() -> None:
    (whole,) = chunks_of(ask("embedding", input="one"))
    (short,) = chunks_of(ask("embedding", input="one", dimensions=8))

    first = whole["data"][0]["embedding"][:8]
    length = math.sqrt(sum(value * value for value in first))
    assert short["data"][0]["embedding"] == pytest.approx([value / length for value in first])
    with pytest.raises(BadRequest, match="this model has 64"):
        ask("embedding", input="one", dimensions=65)


def test_a_document_s_score_is_the_share_of_the_query_s_words_that_it_has() -> None:
    documents = ["The SEA, wide and cold.", "bread", "a sea", ""]
    events = ask("rerank", query="wide sea", documents=[each or "-" for each in documents])

    assert chunks_of(events) == [{"scores": [1.0, 0.0, 0.5, 0.0]}]
    assert finished_of(events).usage.prompt_tokens > 8


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        ask("rerank", spec=spec_of(context=8), query="q", documents=["short", "one two three four " * 2])


def test_a_vocabulary_takes_no_time_to_load_and_offers_nothing_but_to_count() -> None:
    spec = msgspec.structs.replace(spec_of(load_seconds=600), vocabulary_only=True)

    async def load() -> Any:
        engine = Simulated()
        info = await engine.load(spec, lambda *_: None)
        return info, json.decode_any(await engine.tokenize(Tokenize("t", b'{"content":"one two"}')))

    info, counted = asyncio.run(load())

    assert info.capabilities == ()
    assert counted["count"] == 2


def test_an_image_counts_and_says_nothing() -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    text = {"type": "text", "text": "hello"}

    plain = ask("chat", messages=[{"role": "user", "content": [text]}])
    seen = ask("chat", messages=[{"role": "user", "content": [text, image, image]}])

    assert finished_of(seen).usage.prompt_tokens - finished_of(plain).usage.prompt_tokens == 512
    assert message_of(seen) == message_of(plain)


def test_an_image_is_counted_by_tokenize_too() -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    messages = [{"role": "user", "content": [image]}]

    async def count() -> Any:
        engine = await started(spec_of())
        return json.decode_any(await engine.tokenize(Tokenize("t", json.encode({"messages": messages}))))

    assert asyncio.run(count())["count"] == finished_of(ask("chat", messages=messages)).usage.prompt_tokens


# where it ends


@pytest.mark.parametrize(
    ("stops", "kept", "generated", "met"),
    [
        ([], ["one", " two", " three"], 3, None),
        (["none"], ["one", " two", " three"], 3, None),
        (["two"], ["one", " "], 2, "two"),
        (["e t"], ["on"], 2, "e t"),
        (["ne two thr"], ["o"], 3, "ne two thr"),
        (["one"], [], 1, "one"),
        (["two three", "wo"], ["one", " t"], 2, "wo"),
    ],
)
def test_a_stop_cuts_the_text_before_it(stops: list[str], kept: list[str], generated: int, met: str | None) -> None:
    """Also when it spans tokens; the stop that is complete first wins."""
    tokens = ["one", " two", " three"]

    assert cut_at_stop(tokens, stops) == (kept, generated, met)


def test_a_stop_after_max_tokens_is_not_reached() -> None:
    events = say("#echo one two three four", max_tokens=2, stop="four")

    assert message_of(events)["content"] == "one two"
    assert finished_of(events).reason == "length"


def test_a_stop_counts_the_tokens_it_took() -> None:
    events = say("#echo one two three four", stop=["o th"])

    assert message_of(events)["content"] == "one tw"
    assert (finished_of(events).reason, finished_of(events).usage.completion_tokens) == ("stop", 3)


# completions and embeddings


def test_each_prompt_has_its_choices() -> None:
    events = ask("completion", prompt=["#echo a", "#echo b"], n=2)

    assert [choice["text"] for choice in choices_of(events, "completion")] == ["a", "a", "b", "b"]
    assert finished_of(events).usage.prompt_tokens == 2 * len(tokens_of("#echo a"))


def test_token_ids_are_a_prompt() -> None:
    first, again, other = (ask("completion", prompt=ids, max_tokens=4) for ids in ([1, 2, 3], [1, 2, 3], [4, 5]))

    assert finished_of(first).usage.prompt_tokens == 3
    assert choices_of(first, "completion") == choices_of(again, "completion") != choices_of(other, "completion")


def test_a_completion_has_legacy_logprobs() -> None:
    (choice,) = choices_of(ask("completion", prompt="#echo ab cd", logprobs=2), "completion")

    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["ab", " cd"]
    assert logprobs["text_offset"] == [0, 2]
    assert all(value <= 0 for value in logprobs["token_logprobs"])
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2]


def test_the_likeliest_token_is_the_one_that_was_said() -> None:
    (choice,) = choices_of(say("hello", max_tokens=3, logprobs=True, top_logprobs=3))

    for entry in choice["logprobs"]["content"]:
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert (entry["top_logprobs"][0]["token"], values[0]) == (entry["token"], entry["logprob"])
        assert values == sorted(values, reverse=True)


def test_embeddings_are_unit_vectors_that_depend_on_the_text() -> None:
    events = ask("embedding", input=["one", "two", "one"], spec=spec_of(embedding_dimensions=8))

    (whole,) = chunks_of(events)
    first, second, third = (each["embedding"] for each in whole["data"])
    assert first == third != second
    assert len(first) == 8
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-9)
    assert whole["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_embeddings_come_as_base64_when_asked_for() -> None:
    (plain,) = chunks_of(ask("embedding", input="one"))
    (packed,) = chunks_of(ask("embedding", input="one", encoding_format="base64"))

    values = struct.unpack("<64f", base64.b64decode(packed["data"][0]["embedding"]))
    assert values == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)


@pytest.mark.parametrize(("given", "vectors", "tokens"), [([7, 8, 9], 1, 3), ([[7, 8], [9]], 2, 3)])
def test_token_ids_are_embedded(given: list[Any], vectors: int, tokens: int) -> None:
    (whole,) = chunks_of(ask("embedding", input=given))

    assert len(whole["data"]) == vectors
    assert whole["usage"]["prompt_tokens"] == tokens


# tools


def test_a_tool_call_streams_as_openai_does() -> None:
    events = say("#tool", tools=[tool("look", city={"const": "Oslo"}, days={"const": 3})])

    role, start, *rest = deltas_of(events)
    assert role == {"role": "assistant", "content": None}
    (call,) = start["tool_calls"]
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.pop("id"))
    assert call == {"index": 0, "type": "function", "function": {"name": "look", "arguments": ""}}
    assert rest.pop() == {}
    pieces = [delta["tool_calls"][0]["function"]["arguments"] for delta in rest]
    assert len(pieces) > 2
    assert json.decode_any("".join(pieces).encode()) == {"city": "Oslo", "days": 3}
    assert finished_of(events).reason == "tool_calls"


def test_several_calls_take_the_tools_in_turn() -> None:
    calls = message_of(say("#tools 3", tools=[tool("a"), tool("b")]))["tool_calls"]

    assert [call["function"]["name"] for call in calls] == ["a", "b", "a"]
    assert len({call["id"] for call in calls}) == 3


@pytest.mark.parametrize(
    ("text", "fields", "names"),
    [
        ("#tool", {}, ["a"]),
        ("hello", {}, []),
        ("hello", {"tool_choice": "auto"}, []),
        ("hello", {"tool_choice": "required"}, ["a"]),
        ("#tool", {"tool_choice": "none"}, []),
        ("hello", {"tool_choice": {"type": "function", "function": {"name": "b"}}}, ["b"]),
        ("#tools 2", {"parallel_tool_calls": False}, ["a"]),
    ],
)
def test_tool_choice_decides(text: str, fields: dict[str, Any], names: list[str]) -> None:
    message = message_of(say(text, tools=[tool("a"), tool("b")], **fields))

    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == names
    assert bool(message["content"]) is not bool(names)


def test_calls_that_are_required_again_and_again_come_to_every_tool() -> None:
    """Some clients have the model answer by a last tool, and require a call each time."""
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    asked = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    told = [*asked, {"role": "tool", "tool_call_id": "c", "content": "sunny"}]

    message = message_of(ask("chat", messages=told, tools=[tool("a"), tool("b")], tool_choice="required"))

    assert [call["function"]["name"] for call in message["tool_calls"]] == ["b"]


def test_a_schema_with_tools_binds_what_is_no_call() -> None:
    schema = {"type": "object", "properties": {"n": {"const": 3}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    fields = {"tools": [tool("look")], "response_format": wanted}

    assert message_of(say("hello", **fields))["content"] == '{"n":3}'
    assert message_of(say("#tool", **fields))["tool_calls"]


def test_without_tools_nothing_is_called() -> None:
    assert message_of(say("#tool"))["content"]


def test_an_answered_call_is_not_made_again() -> None:
    """Or an agent would never come to an end."""
    call = {"id": "c1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "#tool"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]

    assert finished_of(ask("chat", messages=messages, tools=[tool("a")])).reason == "stop"


def test_a_call_cut_short_says_so() -> None:
    assert finished_of(say("#tool", tools=[tool("a", city={"const": "Oslo"})], max_tokens=2)).reason == "length"


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("no words", Wish()),
        ("## tool #tooling a#tool", Wish()),
        ("#tool", Wish(calls=1)),
        ("x\n#tools 4 y", Wish(calls=4)),
        ("#tools", Wish(calls=1)),
        ("#think #tokens 12", Wish(think=True, tokens=12)),
        ("#tokens", Wish()),
        ("#think #echo #tool 3", Wish(think=True, echo="#tool 3")),
    ],
)
def test_control_words_are_read(text: str, wish: Wish) -> None:
    assert read_wish(text) == wish


# schemas


def made(schema: Any) -> Any:
    return value_for(schema, random.Random(1), "schema")


def test_json_mode_answers_an_object() -> None:
    answer = message_of(say("hello", response_format={"type": "json_object"}))["content"]

    assert json.decode_any(answer.encode()).keys() == {"answer"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": {"a": [1]}}, {"a": [1]}),
        ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]}, {"b": 2}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"const": 5}}}, 5),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 5}}}, 5),
        ({"anyOf": [{"type": "null"}, {"const": "x"}]}, "x"),
        ({"anyOf": [{"not": {}}, {"const": "x"}]}, "x"),
        ({"type": ["null", "integer"], "minimum": 4, "maximum": 4}, 4),
        ({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6}, 5),
        ({"type": "integer", "minimum": 7, "maximum": 13, "multipleOf": 6}, 12),
        ({"type": "number", "minimum": 2.5, "maximum": 2.5}, 2.5),
        ({"type": "array", "items": {"const": 1}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, [1, 2]),
        ({"type": "string", "format": "date"}, "2024-01-15"),
        (
            {
                "allOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/q"}],
                "$defs": {
                    "p": {"properties": {"a": {"const": 1}}, "required": ["a"]},
                    "q": {"properties": {"b": {"const": 2}}, "required": ["b"]},
                },
            },
            {"a": 1, "b": 2},
        ),
    ],
)
def test_a_value_follows_its_schema(schema: dict[str, Any], value: Any) -> None:
    assert made(schema) == value


def test_unique_items_are() -> None:
    values = made({"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True})

    assert sorted(values) == [1, 2, 3]


def test_a_recursive_schema_comes_to_an_end() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }

    assert made(node) == {"next": None}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "bogus"}, "bogus"),
        ({"type": "string", "pattern": "^a+$"}, "'pattern'"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "recursive"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 9}, "too large"),
        ({"$ref": "#"}, "recursive"),
        ({"$ref": "https://example.com/schema"}, "does not point into the schema"),
        ({"$ref": "#/$defs/none"}, "points at nothing"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no number"),
        ({"type": "string", "minLength": 10**9}, "no string"),
        ({"type": "array", "minItems": 10**9}, "too many"),
        ({"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True}, "different items"),
        ({"enum": []}, "enum"),
        ({"type": "object", "required": 7}, "not a valid JSON schema"),
        ({"type": "object", "properties": [], "required": ["a"]}, "not a valid JSON schema"),
        ({"type": "integer", "minimum": "low"}, "not a valid JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_by_name(schema: dict[str, Any], reason: str) -> None:
    began = time.monotonic()

    with pytest.raises(BadRequest, match=reason):
        made(schema)

    assert time.monotonic() - began < 1.0


def objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.text(max_size=5), children, max_size=3)
    return properties.map(lambda p: {"type": "object", "properties": p, "required": list(p)})


def arrays(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least}, children, st.integers(0, 3)
    )


LEAVES = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number", "exclusiveMinimum": 0}]),
    st.integers(-1000, 1000).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 3}),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
        lambda sizes: {"type": "string", "minLength": min(sizes), "maxLength": max(sizes)}
    ),
    st.lists(st.integers() | st.text(), min_size=1).map(lambda values: {"enum": values}),
)
SCHEMAS = st.recursive(LEAVES, lambda children: objects(children) | arrays(children), max_leaves=8)


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "object":
            inner = schema["properties"]
            return value.keys() == inner.keys() and all(conforms(value[key], inner[key]) for key in inner)
        case "array":
            return len(value) >= schema["minItems"] and all(conforms(item, schema["items"]) for item in value)
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            return schema["minLength"] <= len(value) <= schema["maxLength"]
        case "number":
            return bool(value > 0)
        case "boolean":
            return type(value) is bool
        case _:
            return value is None


@given(SCHEMAS, st.integers(0, 100))
def test_any_value_made_conforms_and_is_json(schema: dict[str, Any], seed: int) -> None:
    value = value_for(schema, random.Random(seed), "schema")

    assert conforms(json.decode_any(json.encode(value)), schema)


# tokens


@given(st.text())
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


@given(st.integers(0, 300), st.integers())
def test_prose_has_as_many_tokens_as_words(length: int, seed: int) -> None:
    assert len(tokens_of(prose(dice(seed), length))) == length


@pytest.mark.parametrize("cut", [1, 7, 31])
def test_an_answer_that_was_begun_goes_on_as_it_would_have(cut: int) -> None:
    whole = message_of(say("hello", max_tokens=32))["content"]
    begun = "".join(tokens_of(whole)[:cut])
    asked = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": begun}]

    events = ask("chat", messages=asked, continue_final_message=True, max_tokens=32 - cut)

    assert begun + message_of(events)["content"] == whole
    assert finished_of(events).usage.completion_tokens == 32 - cut


def test_an_answer_that_it_would_not_have_begun_so_is_gone_on_with_all_the_same() -> None:
    asked = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Nobody says this"}]

    assert message_of(ask("chat", messages=asked, continue_final_message=True))["content"]
