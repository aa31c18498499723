"""The engine `transformers` through gateway and neuron, on one rank and on several, and when ranks die."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from harness import Daemon, Fleet, alive, engine_pids, until
from tiny_llama import write_tiny_llama

pytestmark = pytest.mark.tp

PROMPT = "The capital of France is"
ENDLESS = {"0": -100, "2": -100}  # neither of the tokens that end an answer
LONG = "one two three four five. " * 18
MODEL = """
[[models]]
id = "{id}"
source = "{source}"
engine = "transformers"
devices = {ranks}
options = {{ slots = 2, batch = 16, dtype = "float32" }}
"""
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, demo_safetensors: Path, minilm: Path
) -> Iterator[tuple[Daemon, Daemon]]:
    directory = tmp_path_factory.mktemp("tp")
    pair = write_tiny_llama(directory / "pair")
    three = write_tiny_llama(directory / "three", heads=6, kv_heads=3)
    sources = {"pair-1": (pair, 1), "pair-2": (pair, 2), "three-1": (three, 1), "three-3": (three, 3)}
    sources |= {"smol-1": (demo_safetensors, 1), "smol-3": (demo_safetensors, 3), "embed": (minilm, 1)}
    fleet = Fleet(directory)
    try:
        neuron = fleet.neuron("n", config="cpu_devices = 3\n[limits]\nheartbeat_seconds = 4\n")
        models = "".join(MODEL.format(id=id_, source=path, ranks=ranks) for id_, (path, ranks) in sources.items())
        gateway = fleet.gateway(models, {"n": neuron.port})
        until("the gateway sees the node", lambda: gateway.get("/health")["nodes"]["healthy"] == 1)
        yield neuron, gateway
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def client(fleet: tuple[Daemon, Daemon]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet[1].url}/v1", api_key="none", max_retries=0, timeout=180)


def greedy(client: openai.OpenAI, model: str) -> str:
    return client.completions.create(model=model, prompt=PROMPT, max_tokens=16, temperature=0).choices[0].text


def of_model(neuron: Daemon, model: str) -> dict[str, Any]:
    listed: list[dict[str, Any]] = neuron.get("/models")
    return next((each for each in listed if each["id"] == model), {})


def ranks_of(neuron: Daemon, model: str) -> list[int]:
    """Return the processes of *model*, rank 0 first."""
    leader = of_model(neuron, model)["pid"]
    children = psutil.Process(leader).children()
    return [leader, *(child.pid for child in children if "transformers.rank" in " ".join(child.cmdline()))]


@pytest.mark.parametrize(("alone", "split"), [("pair-1", "pair-2"), ("three-1", "three-3"), ("smol-1", "smol-3")])
def test_several_ranks_give_the_tokens_of_one(client: openai.OpenAI, alone: str, split: str) -> None:
    assert greedy(client, alone) == greedy(client, split) != ""


def test_a_group_has_a_process_a_rank_and_says_so(fleet: tuple[Daemon, Daemon], client: openai.OpenAI) -> None:
    greedy(client, "three-3")

    assert len(ranks_of(fleet[0], "three-3")) == 3
    assert any("split over 3 ranks" in note for note in of_model(fleet[0], "three-3")["notes"])


def test_a_chat_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="smol-1",
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 8


def test_a_forced_tool_is_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol-1",
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=[WEATHER],  # type: ignore[list-item]
        tool_choice="required",
        max_tokens=40,
        temperature=0,
    )

    (call,) = answer.choices[0].message.tool_calls or ()
    assert answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")  # type: ignore[union-attr]


def test_a_schema_is_held(client: openai.OpenAI) -> None:
    schema = WEATHER["function"]["parameters"]
    answer = client.chat.completions.create(
        model="smol-1",
        messages=[{"role": "user", "content": "Name a city."}],
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
        max_tokens=40,
        temperature=0,
    )

    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Oslo", "Rome")


def test_embeddings_say_what_is_alike(client: openai.OpenAI) -> None:
    texts = ["A ship sails on the sea.", "A boat is on the ocean.", "Interest rates rose by a quarter."]
    vectors = [each.embedding for each in client.embeddings.create(model="embed", input=texts).data]

    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert len(vectors[0]) == 384
    assert near > 0.5 > far


def test_the_second_turn_finds_the_first_in_the_cache(client: openai.OpenAI) -> None:
    asked = [client.completions.create(model="three-1", prompt=LONG, max_tokens=1, temperature=0) for _ in range(2)]

    details = asked[1].usage.prompt_tokens_details if asked[1].usage else None
    assert details is not None
    assert (details.cached_tokens or 0) > 100
    assert asked[0].choices[0].text == asked[1].choices[0].text


def break_one(neuron: Daemon, model: str, rank: int, how: signal.Signals) -> float:
    """Send *how* to a rank in the middle of an answer; return the seconds until the client hears of it."""
    body = {
        "model": model,
        "prompt": f"{how.name} {rank}",  # a request that ended two engines is not let near a third
        "max_tokens": 480,
        "temperature": 0,
        "stream": True,
        "logit_bias": ENDLESS,
    }
    with httpx2.stream("POST", f"{neuron.url}/v1/completions", json=body, timeout=60, trust_env=False) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        began = time.monotonic()
        os.kill(ranks_of(neuron, model)[rank], how)
        rest = [line for line in lines if line.startswith("data:")]
    assert "error" in json.loads(rest[-1].removeprefix("data:"))
    assert not any("[DONE]" in line for line in rest)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("rank", "how", "seconds"),
    [(1, signal.SIGKILL, 2.0), (0, signal.SIGKILL, 2.0), (2, signal.SIGSTOP, 10.0), (0, signal.SIGSTOP, 10.0)],
)
def test_a_rank_that_dies_or_hangs_ends_its_group_and_no_other(
    fleet: tuple[Daemon, Daemon], client: openai.OpenAI, rank: int, how: signal.Signals, seconds: float
) -> None:
    neuron = fleet[0]
    before, other = greedy(client, "three-3"), of_model(neuron, "three-1").get("pid")
    group = ranks_of(neuron, "three-3")

    assert break_one(neuron, "three-3", rank, how) < seconds

    until("every rank is gone", lambda: not any(map(alive, group)), 5.0)
    assert of_model(neuron, "three-1").get("pid") == other
    until("the replica is back", lambda: of_model(neuron, "three-3").get("status") == "ready")
    assert greedy(client, "three-3") == before


def post(neuron: Daemon, model: str, *, stream: bool, prompt: str) -> socket.socket:
    """Send a request that takes long, and return its connection."""
    fields = {"model": model, "prompt": prompt, "max_tokens": 400, "temperature": 0, "stream": stream}
    body = json.dumps({**fields, "logit_bias": ENDLESS}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{neuron.port}\r\ncontent-type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", neuron.port), 10)
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def busy(neuron: Daemon, model: str, in_flight: int, queued: int = 0) -> Callable[[], bool]:
    def ask() -> bool:
        told = of_model(neuron, model)
        return (told["in_flight"], told["queued"]) == (in_flight, queued)

    return ask


@pytest.mark.parametrize("model", ["three-1", "three-3"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
def test_who_hangs_up_leaves_nothing_behind(
    fleet: tuple[Daemon, Daemon], client: openai.OpenAI, model: str, stream: bool, stage: str
) -> None:
    neuron, before = fleet[0], greedy(client, model)
    others = [post(neuron, model, stream=False, prompt="y") for _ in range(2 if stage == "queued" else 0)]
    until("the slots are taken", busy(neuron, model, len(others)), 5.0)
    leaving = post(neuron, model, stream=stream, prompt=LONG if stage == "prefill" else "z")
    if stage == "queued":
        until("it waits", busy(neuron, model, 2, 1), 5.0)
    else:
        until("it runs", busy(neuron, model, 1), 5.0)
    if stage == "decode" and stream:
        assert leaving.recv(16)

    leaving.close()

    until("it is out", busy(neuron, model, len(others)), 2.0)
    for other in others:
        other.close()
    until("all are out", busy(neuron, model, 0), 2.0)
    assert greedy(client, model) == before


@pytest.mark.parametrize("model", ["three-1", "three-3"])
def test_a_storm_of_leavers_ends_in_a_clean_engine(
    fleet: tuple[Daemon, Daemon], client: openai.OpenAI, model: str
) -> None:
    neuron, before, chance = fleet[0], greedy(client, model), random.Random(11)
    group = ranks_of(neuron, model)
    for _ in range(10):
        connections = [
            post(
                neuron, model, stream=chance.random() < 0.5, prompt=chance.choice(["a", LONG[: chance.randrange(400)]])
            )
            for _ in range(6)
        ]
        chance.shuffle(connections)
        for connection in connections:
            connection.settimeout(chance.random() * 0.05)
            try:
                connection.recv(64)
            except TimeoutError:
                pass
            connection.close()

    until("all are out", busy(neuron, model, 0), 5.0)
    assert ranks_of(neuron, model) == group
    assert greedy(client, model) == before


def test_a_rank_that_is_killed_while_it_loads_is_why_the_load_failed(
    fleet: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    neuron = fleet[0]
    source = write_tiny_llama(tmp_path / "doomed")
    spec = {"id": "doomed", "source": str(source), "engine": "transformers", "devices": 2}
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(httpx2.post, f"{neuron.url}/models/load", json=spec, timeout=90, trust_env=False)
        until("its ranks are there", lambda: of_model(neuron, "doomed"))
        (rank,) = until("the rank is there", lambda: _loading_ranks(neuron))
        os.kill(rank, signal.SIGKILL)
        answer = asked.result()

    assert answer.status_code == 503
    assert "rank 1 of 2 was ended by SIGKILL" in answer.text
    until("it is given up", lambda: of_model(neuron, "doomed")["status"] == "failed")


def _loading_ranks(neuron: Daemon) -> list[int]:
    """Return the other rank of the group of two that is not listed with a process yet."""
    ready = {each["pid"] for each in neuron.get("/models")}
    children = [psutil.Process(pid).children() for pid in engine_pids(neuron) if pid not in ready and alive(pid)]
    return next(([each[0].pid] for each in children if len(each) == 1), [])


def test_a_model_that_cannot_be_split_says_over_how_many_it_can(fleet: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "uneven")
    spec = {"id": "uneven", "source": str(source), "engine": "transformers", "devices": 3}

    answer = httpx2.post(f"{fleet[0].url}/models/load", json=spec, timeout=90, trust_env=False)

    assert answer.status_code == 503
    assert "cannot be dealt out to 3 devices: it takes 1, 2, 4" in answer.text


def neuron_says(*arguments: str) -> str:
    """Return what a command of the neuron's prints; it is to end well."""
    command = [str(Path(sys.executable).parent / "neuron"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_group_is_tried_without_a_model() -> None:
    said = neuron_says("tp-smoke", "--devices", "0,1")

    assert "rank 0 saw 2, rank 1 saw 2; expected 2" in said
    assert "backend gloo" in said
    assert said.endswith("ok: 2 ranks work together\n")


def test_a_model_is_tried_without_a_daemon(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "tried")

    said = neuron_says("validate", str(source), "--engine", "transformers", "--option", "ranks=2")

    assert [line.split()[0] for line in said.splitlines()[1:]] == [
        "start",
        "load",
        "ask",
        "leave",
        "ask",
        "unload",
        "ok:",
    ]


def test_no_process_outlives_its_neuron(fleet: tuple[Daemon, Daemon], client: openai.OpenAI) -> None:
    """Runs last: it kills the neuron."""
    neuron = fleet[0]
    greedy(client, "three-3")
    processes = [*engine_pids(neuron), *ranks_of(neuron, "three-3")]

    neuron.process.kill()

    until("all are gone", lambda: not any(map(alive, processes)), 5.0)
