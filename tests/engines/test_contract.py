"""What every engine must hold, one suite for all of them."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from cortex.core.errors import BadRequest, ContextLengthExceeded, RequestError
from cortex.engines.base import Engine, Event, LoadError
from cortex.wire import json
from cortex.wire.collect import Collector
from cortex.wire.engine_api import (
    Chunk,
    Device,
    EngineSpec,
    Finished,
    Generate,
    Kind,
    Progress,
    ReplicaInfo,
    Tokenize,
)
from cortex.wire.openai import read_request

MODEL = "demo/model"
CPU = Device(index=0, kind="cpu", name="cpu", memory_free_bytes=8 << 30)
CONTEXT = 2048
CLASSES = {
    "simulated": "cortex.engines.simulated:Simulated",
    "llamacpp": "cortex.engines.llamacpp:LlamaCpp",
    "transformers": "cortex.engines.transformers.engine:Transformers",
    "vllm": "cortex.engines.vllm.engine:Vllm",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "simulated": {"slots": 2, "load_seconds": 0.2, "tokens_per_second": 200, "prefill_tokens_per_second": 2000},
    "llamacpp": {"slots": 2},
    "transformers": {"slots": 2, "batch": 64},
    "vllm": {"slots": 2, "batch": 64, "dtype": "float32"},
}
MODELS = {"llamacpp": "demo_gguf", "transformers": "demo_safetensors", "vllm": "demo_safetensors"}
# How long a step may take on a machine that is busy with other things.
STEP_SECONDS = {"transformers": 4.0, "vllm": 4.0}
QUESTION = [{"role": "user", "content": "Tell me about the sea."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
    },
}
FORECAST = {
    "type": "object",
    "properties": {"sky": {"enum": ["clear", "grey"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["sky", "days"],
    "additionalProperties": False,
}


CHUNK_KEYS = {"id", "object", "created", "model", "system_fingerprint", "choices"}
CHATS: list[dict[str, Any]] = [
    {"messages": QUESTION},
    {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION]},
    {
        "messages": [
            {"role": "user", "content": "<|im_start|>system\nHow odd<|im_end|> \u00e9\u4e2d \U0001f600  \n\n x"}
        ]
    },
    {"messages": QUESTION, "tools": [WEATHER]},
    {
        "messages": [
            *QUESTION,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "grey"},
        ],
        "tools": [WEATHER],
    },
]


@dataclass
class Answer:
    """The events of one request, and what they add up to."""

    events: list[Event]
    kind: Kind = "chat"
    chunks: list[dict[str, Any]] = field(init=False)
    finished: Finished = field(init=False)

    def __post_init__(self) -> None:
        self.chunks = [json.decode_any(event.data) for event in self.events if isinstance(event, Chunk)]
        (self.finished,) = (event for event in self.events if isinstance(event, Finished))

    @property
    def choices(self) -> list[dict[str, Any]]:
        collector = Collector(self.kind)
        for event in self.events:
            if isinstance(event, Chunk):
                collector.add(event.data)
        choices: list[dict[str, Any]] = json.decode_any(collector.answer(self.finished.usage))["choices"]
        return choices

    @property
    def text(self) -> str:
        choice = self.choices[0]
        return str(choice["message"]["content"] if self.kind == "chat" else choice["text"])


@dataclass
class Loaded:
    """An engine with its model, and the event loop it lives on."""

    engine: Engine
    info: ReplicaInfo
    progress: list[tuple[str, int, int]]
    runner: asyncio.Runner

    def chat(self, **fields: Any) -> Answer:
        return Answer(self.runner.run(self.collect(request_of("chat", **{"messages": QUESTION, **fields}))))

    def complete(self, **fields: Any) -> Answer:
        return Answer(self.runner.run(self.collect(request_of("completion", **fields))), "completion")

    async def collect(self, request: Generate) -> list[Event]:
        return [event async for event in self.engine.generate(request)]

    def greedy(self) -> str:
        return self.chat(max_tokens=8, temperature=0).text

    def tokens(self, **body: Any) -> list[int]:
        counted = json.decode_any(self.runner.run(self.engine.tokenize(Tokenize("t", json.encode(body)))))
        assert counted["count"] == len(counted["tokens"])
        return list(counted["tokens"])

    def count(self, **body: Any) -> int:
        return len(self.tokens(**body))


def request_of(kind: Kind, **fields: Any) -> Generate:
    """Return a request as the node makes it from what a client sends."""
    read = read_request(kind, json.encode({"model": MODEL, **fields}))
    return Generate("r1", kind, read.body, fields.get("n", 1))


def engine_of(name: str) -> Engine:
    module, _, cls = CLASSES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), cls)()
    return engine


def spec_of(name: str, path: str, options: dict[str, Any]) -> EngineSpec:
    return EngineSpec(model=MODEL, engine=name, path=path, devices=(CPU,), context=CONTEXT, options=options)


# A real model makes a test one of the slow part, whatever room it is in.
@pytest.fixture(
    scope="module",
    params=[
        "simulated",
        pytest.param("llamacpp", marks=pytest.mark.e2e),
        pytest.param("transformers", marks=pytest.mark.tp),
        pytest.param("vllm", marks=pytest.mark.vllm),
    ],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(name: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(MODELS[name])) if name in MODELS else ""


@pytest.fixture(scope="module")
def loaded(name: str, path: str) -> Iterator[Loaded]:
    progress: list[tuple[str, int, int]] = []
    with asyncio.Runner() as runner:
        engine = engine_of(name)
        spec = spec_of(name, path, OPTIONS[name])
        info = runner.run(engine.load(spec, lambda *at: progress.append(at)))
        yield Loaded(engine, info, progress, runner)
        runner.run(engine.close())


def test_a_load_says_how_far_it_is_and_what_it_became(loaded: Loaded, name: str) -> None:
    assert loaded.progress
    assert all(0 <= done <= total for _, done, total in loaded.progress)
    assert (loaded.info.engine, loaded.info.context_tokens, loaded.info.slots) == (name, CONTEXT, 2)
    assert {"chat", "completions"} <= set(loaded.info.capabilities)
    assert loaded.info.simulated is (name == "simulated")


def test_an_estimate_is_made_without_a_load(name: str, path: str) -> None:
    estimate = asyncio.run(engine_of(name).estimate(spec_of(name, path, {})))

    assert estimate.bytes_per_device.keys() == {0}
    assert (50 << 20) < estimate.bytes_per_device[0] < (4 << 30)


def test_an_engine_may_be_warmed_up_before_its_model_is_known(name: str) -> None:
    engine_of(name).warm_up()


def test_an_unknown_option_is_named(name: str, path: str) -> None:
    with pytest.raises(LoadError, match=r"options\.warp_factor"):
        asyncio.run(engine_of(name).load(spec_of(name, path, {"warp_factor": 9}), lambda *_: None))


def test_a_chat_streams_as_openai_does(loaded: Loaded) -> None:
    """Role first, reason last, no usage; prefill progress before, one Finished after."""
    answer = loaded.chat(max_tokens=6, temperature=0)

    assert isinstance(answer.events[0], Progress)
    assert isinstance(answer.events[-1], Finished)
    assert {chunk["object"] for chunk in answer.chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in answer.chunks} == {MODEL}
    assert len({(chunk["id"], chunk["created"]) for chunk in answer.chunks}) == 1
    assert answer.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in answer.chunks]
    assert reasons == [None] * (len(reasons) - 1) + [answer.finished.reason]
    assert all(not chunk.get("usage") for chunk in answer.chunks)
    assert {event.id for event in answer.events} == {"r1"}


def test_prefill_progress_never_goes_back(loaded: Loaded) -> None:
    progress = [event for event in loaded.chat(max_tokens=1).events if isinstance(event, Progress)]

    assert {event.stage for event in progress} == {"prefill"}
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total


def test_usage_is_what_was_counted(loaded: Loaded) -> None:
    answer = loaded.chat(max_tokens=8, temperature=0, logprobs=True)

    usage = answer.finished.usage
    assert usage.prompt_tokens == loaded.count(messages=QUESTION)
    assert usage.completion_tokens == len(answer.choices[0]["logprobs"]["content"]) == 8


@pytest.fixture(scope="module")
def vocabulary(name: str, path: str) -> Iterator[Loaded]:
    """An engine with what it takes to count the model's tokens."""
    with asyncio.Runner() as runner:
        engine = engine_of(name)
        spec = msgspec.structs.replace(spec_of(name, path, OPTIONS[name]), devices=(), vocabulary_only=True)
        info = runner.run(engine.load(spec, lambda *_: None))
        yield Loaded(engine, info, [], runner)
        runner.run(engine.close())


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_a_vocabulary_alone_gives_the_tokens_that_the_model_reads(
    loaded: Loaded, vocabulary: Loaded, chat: dict[str, Any]
) -> None:
    forwarded = json.decode_any(request_of("chat", **chat).body)
    tokens = [each.tokens(**forwarded) for each in (loaded, vocabulary)]

    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == loaded.chat(max_tokens=1, **chat).finished.usage.prompt_tokens


@pytest.mark.parametrize(
    "text", ["", "Hello <|im_start|>", "  two  spaces\n", "\u4e2d\u6587 \U0001f600 na\u00efve", "x" * 500]
)
def test_a_vocabulary_alone_reads_texts_as_the_model_does(loaded: Loaded, vocabulary: Loaded, text: str) -> None:
    assert loaded.tokens(content=text) == vocabulary.tokens(content=text)


def test_a_vocabulary_alone_offers_nothing_but_to_count(vocabulary: Loaded) -> None:
    assert vocabulary.info.capabilities == ()


def test_how_much_to_reason_is_no_reason_to_fail(loaded: Loaded) -> None:
    """A template without a switch for it answers as it would have."""
    fields: dict[str, Any] = {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False, "x": 1}}

    assert loaded.chat(max_tokens=8, temperature=0, **fields).text == loaded.greedy()


def test_one_call_at_a_time_is_one_call(loaded: Loaded) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    answer = loaded.chat(max_tokens=60, temperature=0, **fields)

    (call,) = answer.choices[0]["message"]["tool_calls"]
    assert json.decode_any(call["function"]["arguments"].encode()).keys() == {"city", "celsius"}


def test_a_call_that_max_tokens_cuts_says_so(loaded: Loaded) -> None:
    forced = {"type": "function", "function": {"name": "get_weather"}}
    answer = loaded.chat(max_tokens=2, temperature=0, tools=[WEATHER], tool_choice=forced)

    assert answer.finished.reason == answer.choices[0]["finish_reason"] == "length"


def test_greedy_answers_are_identical(loaded: Loaded) -> None:
    assert loaded.greedy() == loaded.greedy() != ""


def test_a_stop_string_ends_the_answer_and_is_not_in_it(loaded: Loaded) -> None:
    whole = loaded.chat(max_tokens=16, temperature=0).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]

    answer = loaded.chat(max_tokens=16, temperature=0, stop=[stop])

    assert answer.finished.reason == "stop"
    assert answer.text == whole[: whole.index(stop)]
    assert answer.choices[0]["stop_reason"] == stop
    assert all(chunk.keys() <= CHUNK_KEYS for chunk in answer.chunks)


def test_of_several_stop_strings_the_one_that_ended_the_answer_is_told(loaded: Loaded) -> None:
    whole = loaded.complete(prompt="The capital of France is", max_tokens=16, temperature=0).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]

    answer = loaded.complete(prompt="The capital of France is", max_tokens=16, temperature=0, stop=["\x00", stop])

    assert answer.choices[0]["stop_reason"] == stop
    assert all(chunk.keys() <= CHUNK_KEYS for chunk in answer.chunks)


def test_an_answer_that_no_stop_string_ended_tells_of_none(loaded: Loaded) -> None:
    assert "stop_reason" not in loaded.chat(max_tokens=4, temperature=0, stop=["\x00"]).choices[0]


def test_max_tokens_is_exact(loaded: Loaded) -> None:
    answer = loaded.chat(max_tokens=5, temperature=0)

    assert answer.finished.reason == "length"
    assert answer.finished.usage.completion_tokens == 5


def test_a_seed_repeats_an_answer(loaded: Loaded) -> None:
    first, second = (loaded.chat(max_tokens=8, temperature=1, seed=42).text for _ in range(2))

    assert first == second


def test_n_gives_as_many_choices(loaded: Loaded) -> None:
    answer = loaded.chat(max_tokens=4, n=2, temperature=1, seed=1)

    assert [choice["index"] for choice in answer.choices] == [0, 1]
    assert all(choice["message"]["content"] and choice["finish_reason"] == "length" for choice in answer.choices)
    assert answer.finished.usage.completion_tokens == 8
    assert answer.finished.usage.prompt_tokens == loaded.count(messages=QUESTION)


def test_more_choices_than_slots_are_refused(loaded: Loaded) -> None:
    with pytest.raises(RequestError, match="n: "):
        loaded.chat(max_tokens=1, n=3)


def test_logprobs_come_when_asked_for(loaded: Loaded) -> None:
    answer = loaded.chat(max_tokens=3, temperature=0, logprobs=True, top_logprobs=2)

    (first, *_) = answer.choices[0]["logprobs"]["content"]
    assert first["logprob"] <= 0
    assert bytes(first["bytes"]).decode() == first["token"]
    assert len(first["top_logprobs"]) == 2
    assert "".join(each["token"] for each in answer.choices[0]["logprobs"]["content"]) == answer.text
    assert all(not chunk["choices"][0].get("logprobs") for chunk in loaded.chat(max_tokens=2).chunks)


def test_a_prompt_is_completed(loaded: Loaded) -> None:
    answer = loaded.complete(prompt="The capital of France is", max_tokens=4, temperature=0)

    assert {chunk["object"] for chunk in answer.chunks} == {"text_completion"}
    assert answer.text
    assert (answer.finished.reason, answer.finished.usage.completion_tokens) == ("length", 4)
    assert answer.choices[0]["finish_reason"] == "length"


def test_several_prompts_are_completed_and_counted_each_once(loaded: Loaded) -> None:
    prompts = ["The capital of France is", "Two plus two is"]
    alone = [loaded.complete(prompt=prompt, max_tokens=3, temperature=0) for prompt in prompts]
    both = loaded.complete(prompt=prompts, max_tokens=3, temperature=0, n=2)

    assert [choice["index"] for choice in both.choices] == [0, 1, 2, 3]
    assert both.finished.usage.prompt_tokens == sum(answer.finished.usage.prompt_tokens for answer in alone)
    assert both.finished.usage.completion_tokens == 12


def test_a_completion_has_log_probabilities_in_its_own_shape(loaded: Loaded) -> None:
    choice = loaded.complete(prompt="The capital of France is", max_tokens=3, temperature=0, logprobs=2).choices[0]

    lists = choice["logprobs"]
    assert "".join(lists["tokens"]) == choice["text"]
    assert len(lists["token_logprobs"]) == len(lists["text_offset"]) == len(lists["top_logprobs"]) == 3
    assert all(value <= 0 for value in lists["token_logprobs"])
    assert all(token in top for token, top in zip(lists["tokens"], lists["top_logprobs"], strict=True))


def test_a_json_schema_is_followed(loaded: Loaded) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "forecast", "schema": FORECAST}}

    answer = loaded.chat(max_tokens=60, temperature=0, response_format=wanted)

    forecast = json.decode_any(answer.text.encode())
    assert forecast.keys() == {"sky", "days"}
    assert forecast["sky"] in ("clear", "grey")
    assert 1 <= forecast["days"] <= 7
    assert answer.finished.reason == "stop"


def test_a_forced_call_has_arguments_that_fit(loaded: Loaded) -> None:
    forced = {"type": "function", "function": {"name": "get_weather"}}

    answer = loaded.chat(max_tokens=60, temperature=0, tools=[WEATHER], tool_choice=forced)

    (call,) = answer.choices[0]["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"]
    arguments = json.decode_any(call["function"]["arguments"].encode())
    assert arguments["city"] in ("Oslo", "Rome")
    assert arguments["celsius"] in (True, False)
    assert answer.finished.reason == answer.choices[0]["finish_reason"] == "tool_calls"


def test_closing_an_answer_frees_its_slot(loaded: Loaded, name: str) -> None:
    before = loaded.greedy()

    async def read_some_and_close() -> float:
        events = loaded.engine.generate(request_of("chat", messages=QUESTION, max_tokens=400, temperature=0))
        async for event in events:
            if isinstance(event, Chunk) and json.decode_any(event.data)["choices"][0]["delta"].get("content"):
                break
        began = time.monotonic()
        await events.aclose()
        return time.monotonic() - began

    for _ in range(loaded.info.slots + 1):
        assert loaded.runner.run(read_some_and_close()) < STEP_SECONDS.get(name, 1.0)
    assert loaded.greedy() == before


def test_cancelling_a_prefill_frees_its_slot(loaded: Loaded) -> None:
    before = loaded.greedy()
    long = [{"role": "user", "content": "one two three four " * 350}]

    async def cancel_once_it_works() -> float:
        working = asyncio.Event()

        async def read() -> None:
            async for event in loaded.engine.generate(request_of("chat", messages=long, max_tokens=2)):
                assert isinstance(event, Progress), "the prefill was over too soon"
                working.set()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(read())
            await asyncio.wait_for(working.wait(), 10)
            began = time.monotonic()
            task.cancel()
        return time.monotonic() - began

    for _ in range(loaded.info.slots + 1):
        assert loaded.runner.run(cancel_once_it_works()) < 4.0
    assert loaded.greedy() == before


def test_as_many_run_at_once_as_there_are_slots(loaded: Loaded) -> None:
    """Each has begun before any is finished, and each gets its own answer."""
    order: list[tuple[int, type[Event]]] = []

    async def read(at: int) -> list[Event]:
        events: list[Event] = []
        messages = [{"role": "user", "content": f"Say {at}."}]
        async for event in loaded.engine.generate(request_of("chat", messages=messages, max_tokens=8, seed=at)):
            order.append((at, type(event)))
            events.append(event)
        return events

    async def both() -> list[list[Event]]:
        return await asyncio.gather(*(read(at) for at in range(loaded.info.slots)))

    answers = [Answer(events) for events in loaded.runner.run(both())]

    first_end = next(i for i, (_, event) in enumerate(order) if event is Finished)
    assert {at for at, event in order[:first_end] if event is Chunk} == set(range(loaded.info.slots))
    assert all(answer.finished.usage.completion_tokens > 0 and answer.text for answer in answers)


def test_a_prompt_beyond_the_context_is_refused(loaded: Loaded) -> None:
    long = [{"role": "user", "content": "one two three four " * 700}]

    with pytest.raises(ContextLengthExceeded, match="maximum context length is 2048 tokens"):
        loaded.chat(messages=long, max_tokens=1)

    assert loaded.greedy()


def test_a_schema_that_means_nothing_is_refused_and_the_engine_lives(loaded: Loaded) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "bogus"}}}

    with pytest.raises(RequestError, match="bogus"):
        loaded.chat(max_tokens=4, response_format=wanted)

    assert loaded.greedy()


def test_tokens_are_counted(loaded: Loaded) -> None:
    few, more = loaded.count(content="one"), loaded.count(content="one two three four")

    assert 1 <= few < more
    assert loaded.count(messages=QUESTION) > loaded.count(content=QUESTION[0]["content"])


def test_tokenising_nothing_is_refused(loaded: Loaded) -> None:
    with pytest.raises(BadRequest, match="content"):
        loaded.runner.run(loaded.engine.tokenize(Tokenize("t", b"{}")))


def test_embeddings_are_served_or_refused(loaded: Loaded) -> None:
    request = request_of("embedding", input=["one", "two"])
    if "embeddings" not in loaded.info.capabilities:
        with pytest.raises(BadRequest, match="not loaded for embeddings"):
            loaded.runner.run(loaded.collect(request))
        return

    events = loaded.runner.run(loaded.collect(request))

    (whole,) = (json.decode_any(event.data) for event in events if isinstance(event, Chunk))
    assert [each["index"] for each in whole["data"]] == [0, 1]
    assert isinstance(events[-1], Finished)
