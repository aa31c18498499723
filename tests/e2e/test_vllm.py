"""The engine `vllm` through gateway and neuron, on one rank and on two, and when its processes die."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from harness import Daemon, Fleet, alive, until
from tiny_llama import write_tiny_llama

pytestmark = pytest.mark.vllm

PROMPT = "The capital of France is"
MESSAGES: list[Any] = [{"role": "user", "content": "Say hello."}]
ENDLESS = {"0": -100, "2": -100}  # neither of the tokens that end an answer
LOAD_SECONDS = 400.0
MODEL = """
[[models]]
id = "{id}"
source = "{source}"
engine = "vllm"
devices = {ranks}
context = 1024
options = {{ slots = {slots}, dtype = "float32", step_seconds = 8 }}
"""
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    directory = tmp_path_factory.mktemp("vllm")
    tiny = write_tiny_llama(directory / "tiny", head_dim=32, context=1024)
    fleet = Fleet(directory)
    try:
        neuron = fleet.neuron("n", config="cpu_devices = 2\n")
        models = "".join(MODEL.format(id=f"tiny-{n}", source=tiny, ranks=n, slots=3 - n) for n in (1, 2))
        gateway = fleet.gateway(models, {"n": neuron.port})
        until("the gateway sees the node", lambda: gateway.get("/health")["nodes"]["healthy"] == 1)
        yield neuron, gateway
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def client(fleet: tuple[Daemon, Daemon]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet[1].url}/v1", api_key="none", max_retries=0, timeout=LOAD_SECONDS)


def greedy(client: openai.OpenAI, model: str) -> str:
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0).choices[0].text


def endless(client: openai.OpenAI) -> openai.Stream[Any]:
    return client.chat.completions.create(
        model="tiny-2", messages=MESSAGES, max_tokens=900, logit_bias=ENDLESS, stream=True
    )


def of_model(neuron: Daemon, model: str) -> dict[str, Any]:
    listed: list[dict[str, Any]] = neuron.get("/models")
    return next((each for each in listed if each["id"] == model), {})


def family_of(neuron: Daemon, model: str) -> list[psutil.Process]:
    """Return the engine process of *model* and all that it started."""
    leader = psutil.Process(of_model(neuron, model)["pid"])
    return [leader, *leader.children(recursive=True)]


def workers_of(neuron: Daemon, model: str) -> list[psutil.Process]:
    return [each for each in family_of(neuron, model) if "Worker" in each.name() + " ".join(each.cmdline())]


def test_two_ranks_give_the_tokens_of_one(fleet: tuple[Daemon, Daemon], client: openai.OpenAI) -> None:
    assert greedy(client, "tiny-1") == greedy(client, "tiny-2") != ""
    assert [len(workers_of(fleet[0], f"tiny-{n}")) for n in (1, 2)] == [1, 2]


def test_a_chat_streams_and_its_beginning_is_found_in_the_cache(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "one two three four five. " * 12}]

    def ask() -> list[Any]:
        return list(
            client.chat.completions.create(
                model="tiny-2",
                messages=messages,
                max_tokens=8,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    first, again = ask(), ask()

    texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices) for chunks in (first, again)]
    assert texts[0] == texts[1] != ""
    assert first[-1].usage.completion_tokens == 8
    assert again[-1].usage.prompt_tokens_details.cached_tokens >= 128


def test_a_schema_is_held_and_log_probabilities_are_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny-2",
        messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}},
        max_tokens=200,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
    )

    content = answer.choices[0].message.content or ""
    assert json.loads(content)["city"] in ("Oslo", "Rome")
    assert answer.choices[0].logprobs is not None
    assert "".join(each.token for each in answer.choices[0].logprobs.content or ()).startswith(content)


def test_a_forced_tool_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny-2",
        messages=MESSAGES,
        tools=[{"type": "function", "function": {"name": "visit", "parameters": CITY}}],
        tool_choice={"type": "function", "function": {"name": "visit"}},
        max_tokens=200,
        temperature=0,
    )

    (call, *_) = answer.choices[0].message.tool_calls or ()
    assert answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")  # type: ignore[union-attr]


def test_whoever_leaves_frees_the_only_slot(client: openai.OpenAI) -> None:
    before = greedy(client, "tiny-2")

    for _ in range(3):
        stream = endless(client)
        next(iter(stream))
        stream.close()

    assert greedy(client.with_options(timeout=20), "tiny-2") == before


def test_a_worker_that_hangs_ends_all_within_the_time_of_a_step(
    fleet: tuple[Daemon, Daemon], client: openai.OpenAI
) -> None:
    neuron, _ = fleet
    before, family, worker = greedy(client, "tiny-2"), family_of(neuron, "tiny-2"), workers_of(neuron, "tiny-2")[1]
    stream = endless(client)
    next(iter(stream))

    worker.send_signal(signal.SIGSTOP)
    with pytest.raises(openai.APIError):
        list(stream)

    until("nothing of it is left", lambda: not [each for each in family if alive(each.pid)], 15)
    assert greedy(client, "tiny-2") == before


def test_a_worker_that_dies_ends_all_and_the_replica_is_started_again(
    fleet: tuple[Daemon, Daemon], client: openai.OpenAI
) -> None:
    neuron, _ = fleet
    before, family, worker = greedy(client, "tiny-2"), family_of(neuron, "tiny-2"), workers_of(neuron, "tiny-2")[1]
    stream = endless(client)
    next(iter(stream))

    worker.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(openai.APIError, match="Worker"):
        list(stream)
    assert time.monotonic() - began < 2
    until("nothing of it is left", lambda: not [each for each in family if alive(each.pid)], 15)
    assert greedy(client, "tiny-1") == before, "the other replica does not notice"
    assert greedy(client, "tiny-2") == before


def test_nothing_outlives_a_neuron_that_is_killed(fleet: tuple[Daemon, Daemon], client: openai.OpenAI) -> None:
    neuron, _ = fleet
    family = [each for n in (1, 2) for each in family_of(neuron, f"tiny-{n}")]

    neuron.process.send_signal(signal.SIGKILL)
    neuron.process.wait()

    until("nothing of its engines is left", lambda: not [each for each in family if alive(each.pid)], 10)


def test_a_parser_that_vllm_does_not_know_is_refused_with_those_it_does(tmp_path: Path) -> None:
    from cortex.engines.base import LoadError
    from cortex.engines.vllm.serving import check_parsers

    with pytest.raises(LoadError, match="hermes"):
        check_parsers({"tool_parser": "hermess", "reasoning_parser": None})
