"""The main job on real input: a client, a gateway, a neuron, an engine process, a real model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from harness import Daemon, Fleet, until

CLIENTS = Path(__file__).resolve().parents[3] / "shared" / "clients"
QUESTION = [{"role": "user", "content": "Name one colour of the rainbow."}]


@pytest.fixture(scope="module")
def neuron(fleet: Fleet) -> Daemon:
    return fleet.neuron("a")


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, neuron: Daemon, demo_gguf: Path) -> Daemon:
    models = f"""
    [[models]]
    id = "org/smol"
    source = "{demo_gguf}"
    aliases = ["demo"]
    context = 2048
    [[models]]
    id = "embedder"
    source = "{demo_gguf}"
    context = 512
    options = {{ embeddings = true, slots = 1 }}
    [[models]]
    id = "sim"
    engine = "simulated"
    options = {{ load_seconds = 2.5, tokens_per_second = 500 }}
    [[models]]
    id = "too-large"
    engine = "simulated"
    options = {{ memory_mb = 900000 }}
    [[models]]
    id = "absent"
    source = "/nowhere/model.gguf"
    """
    return fleet.gateway(models, {"a": neuron.port})


@pytest.fixture(scope="module")
def client(gateway: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0, timeout=120)


def stream_of(gateway: Daemon, model: str, **fields: Any) -> tuple[list[float], bytes]:
    """Return when each piece of a streamed answer came, in seconds since the request, and all of its bytes."""
    body = {"model": model, "messages": QUESTION, "max_tokens": 4, "stream": True, "temperature": 0, **fields}
    began, times, pieces = time.monotonic(), [], []
    with httpx2.stream("POST", gateway.url + "/v1/chat/completions", json=body, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw():
            times.append(time.monotonic() - began)
            pieces.append(piece)
    return times, b"".join(pieces)


def test_ten_cold_requests_cause_one_load_and_none_waits_in_silence(gateway: Daemon, neuron: Daemon) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: stream_of(gateway, "sim"), range(10)))

    assert len([e for e in neuron.events("load_started") if e["model"] == "sim"]) == 1
    for times, body in answers:
        assert body.endswith(b"data: [DONE]\n\n")
        assert times[0] < 1.5
        assert max(later - sooner for sooner, later in pairwise(times)) < 1.6
        assert b": loading sim on a" in body
        assert b": cortex " not in body


def test_a_real_model_is_loaded_for_whoever_asks_and_streams_its_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert {chunk.model for chunk in chunks} == {"org/smol"}


def test_the_whole_answer_is_the_collected_stream(client: openai.OpenAI, gateway: Daemon) -> None:
    whole = client.chat.completions.create(model="org/smol", messages=QUESTION, max_tokens=12, temperature=0)

    _, body = stream_of(gateway, "org/smol", max_tokens=12)
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    assert whole.choices[0].message.content == "".join(e["choices"][0]["delta"].get("content") or "" for e in events)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12


def test_sampling_is_honoured_by_the_real_model(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(model="demo", messages=QUESTION, **fields)

    seeded = [ask(seed=7, temperature=1.0, max_tokens=10).choices[0].message.content for _ in range(2)]
    assert seeded[0] == seeded[1]
    greedy = ask(temperature=0, max_tokens=12).choices[0].message.content
    assert greedy is not None
    stop = greedy.split()[2]
    stopped = ask(temperature=0, max_tokens=12, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stop not in (stopped.message.content or "")
    likely = ask(temperature=0, max_tokens=2, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert likely is not None
    assert likely.content is not None
    assert [len(token.top_logprobs) for token in likely.content] == [3, 3]
    assert len(ask(n=2, max_tokens=3, temperature=1).choices) == 2


def test_a_schema_binds_the_real_model(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "warm": {"type": "boolean"}},
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=60, temperature=0, response_format=format_
    )

    value = json.loads(answer.choices[0].message.content or "")
    assert value["colour"] in ("red", "blue")
    assert isinstance(value["warm"], bool)


def test_a_forced_tool_call_is_a_tool_call(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=40, temperature=0, tools=tools, tool_choice=choice
    )

    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_completions_and_embeddings_answer(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="demo", prompt="Two plus two is", max_tokens=3, temperature=0)
    pieces = list(
        client.completions.create(model="demo", prompt="Two plus two is", max_tokens=3, temperature=0, stream=True)
    )
    vectors = client.embeddings.create(model="embedder", input=["a red apple", "a green apple", "tax law"]).data

    assert completion.choices[0].text == "".join(piece.choices[0].text for piece in pieces)
    assert [len(vector.embedding) for vector in vectors] == [576] * 3
    with pytest.raises(openai.BadRequestError, match="does not offer embeddings"):
        client.embeddings.create(model="demo", input="x")


def test_refusals_name_their_cause(client: openai.OpenAI) -> None:
    def ask(model: str = "sim", **fields: Any) -> Any:
        return client.chat.completions.create(**{"model": model, "messages": QUESTION, **fields})

    with pytest.raises(openai.NotFoundError, match="did you mean org/smol") as unknown:
        ask("org/smoll")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(messages=[])
    assert wrong.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as hot:
        ask(temperature=99)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        ask("demo", messages=[{"role": "user", "content": "word " * 5000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.InternalServerError, match="needs 900000 MiB") as large:
        ask("too-large")
    assert large.value.status_code == 503
    assert large.value.code == "no_feasible_node"
    with pytest.raises(openai.InternalServerError, match=r"/nowhere/model\.gguf"):
        ask("absent")


def test_what_is_wrong_with_a_request_is_said_before_a_model_is_loaded(gateway: Daemon, neuron: Daemon) -> None:
    body = {"model": "absent", "messages": "hello", "stream": True}
    answer = httpx2.post(gateway.url + "/v1/chat/completions", json=body, trust_env=False)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"


def test_ignored_fields_are_named_and_ids_are_kept(gateway: Daemon) -> None:
    body = {"model": "sim", "messages": QUESTION, "max_tokens": 2, "store": True, "x-private": 1}
    headers = {"x-request-id": "abc-123"}
    answer = httpx2.post(gateway.url + "/v1/chat/completions", json=body, headers=headers, trust_env=False)

    assert answer.headers["x-cortex-ignored"] == "store, x-private"
    assert answer.headers["x-request-id"] == "abc-123"
    assert answer.headers["x-cortex-node"] == "a"


def test_the_listing_says_what_there_is(gateway: Daemon) -> None:
    listed = {entry["id"]: entry for entry in gateway.get("/v1/models")["data"]}

    assert list(listed) == sorted(listed)
    assert listed["org/smol"]["state"] == "ready"
    assert listed["org/smol"]["context_length"] == 2048
    assert listed["sim"]["simulated"] is True
    assert gateway.get("/v1/models/org/smol")["id"] == gateway.get("/v1/models/demo")["id"] == "org/smol"
    assert gateway.get("/v1/models/org%2Fsmol")["id"] == "org/smol"


def test_the_load_goes_on_when_the_client_that_caused_it_leaves(fleet: Fleet, neuron: Daemon, gateway: Daemon) -> None:
    neuron_api = httpx2.Client(base_url=neuron.url, timeout=30, trust_env=False)
    with neuron_api:
        assert neuron_api.post("/models/unload", json={"model_id": "sim"}).json()["status"] == "unloaded"
        body = {"model": "sim", "messages": QUESTION, "stream": True}
        with httpx2.stream("POST", gateway.url + "/v1/chat/completions", json=body, trust_env=False) as answer:
            next(answer.iter_raw())

    until("sim is ready", lambda: any(m["id"] == "sim" and m["status"] == "ready" for m in neuron.get("/models")), 10)


def test_the_log_tells_where_the_time_went(gateway: Daemon, neuron: Daemon, client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=3, extra_headers={"x-request-id": "trail-1"}
    )

    trail = [line for line in neuron.log() if line.get("request") == "trail-1"]
    assert [line["event"] for line in trail] == [
        "generation_queued",
        "generation_started",
        "prefill_done",
        "decode_done",
        "generation_finished",
    ]
    assert trail[1]["prompt_tokens"] > 0
    assert trail[-1]["completion_tokens"] == 3
    last = gateway.told("request_finished", request="trail-1")
    assert last["status"] == 200
    assert last["completion_tokens"] == 3


def test_the_books_are_kept(gateway: Daemon, neuron: Daemon) -> None:
    text = httpx2.get(gateway.url + "/metrics", trust_env=False).text
    assert 'cortex_requests_total{model="org/smol",node="a"}' in text
    assert 'cortex_time_to_first_token_seconds_bucket{le="0.05",model="org/smol",node="a"}' in text
    assert 'cortex_completion_tokens_total{model="org/smol",node="a"}' in text
    assert 'neuron_replica_ready{model="org/smol"} 1.0' in httpx2.get(neuron.url + "/metrics", trust_env=False).text


def test_the_node_tells_of_itself(neuron: Daemon) -> None:
    found, health = neuron.get("/discovery"), neuron.get("/health")

    assert found["devices"][-1]["kind"] == "cpu"
    assert found["devices"][-1]["memory_total_bytes"] > 0
    assert {"llamacpp", "simulated"} <= set(found["engines"])
    assert health["activation"]["state"] == "ready"
    assert health["devices"][-1]["memory_free_bytes"] > 0
    real = next(model for model in health["models"] if model["id"] == "org/smol")
    assert real["memory_bytes"] > 90 << 20
    tokens = httpx2.post(
        neuron.url + "/tokenize", json={"model": "org/smol", "content": "hello world"}, trust_env=False
    )
    assert tokens.json()["count"] == len(tokens.json()["tokens"]) == 2
    assert neuron.get("/models/org/smol/endpoint")["url"] == neuron.url
    assert neuron.get("/version")["package_version"]


@pytest.mark.skipif(not CLIENTS.exists(), reason="the bad inputs are not beside this checkout")
def test_bad_input_is_refused_and_costs_nothing(gateway: Daemon, tmp_path: Path) -> None:
    result = tmp_path / "bad.json"
    subprocess.run(
        [sys.executable, str(CLIENTS / "badhttp.py"), str(gateway.port), "--model", "sim", "--json", str(result)],
        capture_output=True,
        timeout=240,
        check=True,
    )

    failed = {case["case"] for case in json.loads(result.read_text()) if not case["ok"]}
    # A client that closes its side is taken for gone; a chunk extension that arrives in one read is let through.
    assert failed <= {"half-close after full request still answered", "chunk ext 100KB"}
    assert gateway.events("request_crashed") == []
