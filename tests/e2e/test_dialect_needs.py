"""What dialects need beside answers, on real input: counts of cold models, stop sequences, vectors, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Daemon, Fleet
from tiny_gguf import MEAN, RANK, write_encoder

QUESTION = [{"role": "user", "content": "Name one colour of the rainbow."}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Daemon:
    directory = tmp_path_factory.mktemp("models")
    models = f"""
    [[models]]
    id = "smol"
    source = "{demo_gguf}"
    context = 1024
    [[models]]
    id = "embedder"
    source = "{write_encoder(directory / "embedder.gguf", MEAN)}"
    [[models]]
    id = "ranker"
    source = "{write_encoder(directory / "ranker.gguf", RANK)}"
    [[models]]
    id = "sim"
    engine = "simulated"
    options = {{ load_seconds = 0 }}
    """
    return fleet.gateway(models, {"a": fleet.neuron("a").port})


def post(gateway: Daemon, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(gateway.url + path, json=body, timeout=60, trust_env=False)


def is_loaded(fleet: Fleet, model: str) -> bool:
    return model in [each["id"] for each in fleet.daemons["a"].get("/models")]


def test_a_cold_model_s_count_is_what_its_answer_will_have_read(fleet: Fleet, gateway: Daemon) -> None:
    counted = post(gateway, "/v1/messages/count_tokens", model="smol", messages=QUESTION, tools=[WEATHER])
    bare = post(gateway, "/v1/messages/count_tokens", model="smol", messages=QUESTION)
    assert not is_loaded(fleet, "smol")

    fields: dict[str, Any] = {"model": "smol", "messages": QUESTION, "max_tokens": 1}
    answered = [post(gateway, "/v1/messages", **fields, tools=[WEATHER]), post(gateway, "/v1/messages", **fields)]
    again = post(gateway, "/v1/messages/count_tokens", model="smol", messages=QUESTION, tools=[WEATHER])

    usage = [each.json()["usage"] for each in answered]
    read = [each["input_tokens"] + each["cache_read_input_tokens"] for each in usage]
    assert [counted.json()["input_tokens"], bare.json()["input_tokens"]] == read
    assert again.json() == counted.json()
    assert is_loaded(fleet, "smol")


def test_the_stop_sequence_that_ended_a_message_is_told(gateway: Daemon) -> None:
    fields: dict[str, Any] = {"model": "smol", "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    text = post(gateway, "/v1/messages", **fields).json()["content"][0]["text"]
    stop = text[len(text) // 2 :][:4]
    ended = post(gateway, "/v1/messages", **fields, stop_sequences=["never seen", stop]).json()

    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", stop)


def test_an_encoder_is_loaded_for_vectors_on_demand(gateway: Daemon) -> None:
    answer = post(gateway, "/v1/embeddings", model="embedder", input=["the sea", "bread"]).json()

    assert [len(each["embedding"]) for each in answer["data"]] == [32, 32]
    assert answer["usage"]["prompt_tokens"] == 7


@pytest.mark.parametrize("model", ["ranker", "sim"])
def test_documents_are_ranked(gateway: Daemon, model: str) -> None:
    documents = ["bread bakes", "the sea is wide"]
    answer = post(gateway, "/v1/rerank", model=model, query="the sea", documents=documents, return_documents=True)

    results = answer.json()["results"]
    assert {each["document"]["text"] for each in results} == set(documents)
    assert results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert answer.json()["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {"input": "x"}, "options = { embeddings = true }"),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}, "smol does not offer rerank; it offers chat"),
    ],
)
def test_a_model_that_writes_says_what_it_does_not_do(
    gateway: Daemon, path: str, body: dict[str, Any], message: str
) -> None:
    refused = post(gateway, path, model="smol", **body)

    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "capability_not_supported")
    assert message in refused.json()["error"]["message"]
