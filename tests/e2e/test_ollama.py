"""Ollama's API before real processes: chats, tools, images, structure, vectors, and models that come and go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Daemon, Fleet, until
from json_fuzz import PNG
from sdks import CITY, HI, function, says

Value = dict[str, Any]


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, demo_gguf: Path) -> Daemon:
    models = f"""
    [[models]]
    id = "smol"
    source = "{demo_gguf}"
    context = 1024
    [[models]]
    id = "sim"
    engine = "simulated"
    aliases = ["llama3.2:3b"]
    options = {{ load_seconds = 0.1, tokens_per_second = 2000 }}
    [[models]]
    id = "cold"
    engine = "simulated"
    options = {{ load_seconds = 2.5, tokens_per_second = 2000 }}
    """
    return fleet.gateway(models, {"a": fleet.neuron("a").port})


def post(gateway: Daemon, path: str, model: str = "sim", **fields: Any) -> httpx2.Response:
    """Ask as `curl -d` does, which declares a form."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    content = json.dumps({"model": model, **fields})
    return httpx2.post(gateway.url + path, content=content, headers=headers, timeout=60, trust_env=False)


def chat(gateway: Daemon, *messages: Value, **fields: Any) -> Value:
    answer = post(gateway, "/api/chat", messages=messages, stream=False, **fields)
    told: Value = answer.raise_for_status().json()
    assert told["done"]
    return told


def lines_of(answer: httpx2.Response) -> list[Value]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def loaded(gateway: Daemon) -> list[str]:
    return [model["name"] for model in gateway.get("/api/ps")["models"]]


def test_a_real_model_is_loaded_and_answers_in_lines(gateway: Daemon) -> None:
    asked: Value = {"prompt": "Name one colour of the rainbow.", "options": {"num_predict": 8, "temperature": 0}}
    *pieces, last = lines_of(post(gateway, "/api/generate", "smol:latest", **asked))
    whole = post(gateway, "/api/generate", "smol", **asked, stream=False).json()

    assert "".join(piece["response"] for piece in pieces) == whole["response"] != ""
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "length", 8)
    assert last["prompt_eval_count"] == whole["prompt_eval_count"] > 0
    assert last["load_duration"] > whole["load_duration"]
    assert last["total_duration"] > last["load_duration"] + last["eval_duration"] > 0


def test_a_real_model_goes_on_from_a_raw_prompt(gateway: Daemon) -> None:
    asked: Value = {"prompt": "1 2 3 4", "raw": True, "stream": False, "options": {"num_predict": 4, "temperature": 0}}

    assert "5" in post(gateway, "/api/generate", "smol", **asked).json()["response"]


def test_a_real_model_keeps_to_a_schema(gateway: Daemon) -> None:
    told = chat(gateway, says("Where is the Eiffel tower?"), model="smol", format=CITY, options={"temperature": 0})

    assert json.loads(told["message"]["content"])["city"] in ("Paris", "Rome")


def test_a_chat_is_the_same_in_lines_and_whole(gateway: Daemon) -> None:
    whole = chat(gateway, says("#echo Good\u2028 day"), model="llama3.2:3b")
    lines = lines_of(post(gateway, "/api/chat", messages=[says("#echo Good\u2028 day")]))

    assert whole["message"] == {"role": "assistant", "content": "Good\u2028 day"}
    assert "".join(line["message"]["content"] for line in lines) == "Good\u2028 day"
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_loop_over_tools_ends_in_an_answer(gateway: Daemon) -> None:
    """As agents do: call what is to be called, say the results without ids, and ask again."""
    messages: list[Value] = [says("#tools 2")]
    tools = [function("get_weather"), function("get_time")]
    asked = chat(gateway, *messages, tools=tools)["message"]
    messages.append(asked)
    for call in asked["tool_calls"]:
        assert call["function"]["arguments"]["city"] in ("Paris", "Rome")
        messages.append({"role": "tool", "tool_name": call["function"]["name"], "content": "fine"})
    told = chat(gateway, *messages, tools=tools)["message"]

    assert len(asked["tool_calls"]) == 2
    assert told["content"] != ""
    assert "tool_calls" not in told


def test_a_streamed_call_comes_whole(gateway: Daemon) -> None:
    lines = lines_of(post(gateway, "/api/chat", messages=[says("#tool")], tools=[function("get_weather")]))

    (calls,) = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
    assert [call["function"]["name"] for call in calls] == ["get_weather"]
    assert lines[-1]["done_reason"] == "stop"


def test_an_image_is_seen(gateway: Daemon) -> None:
    bare, seeing = chat(gateway, says()), chat(gateway, {**says(), "images": [PNG]})

    assert seeing["prompt_eval_count"] > bare["prompt_eval_count"] + 200


@pytest.mark.parametrize("form", [CITY, "json"])
def test_structure_is_kept_to(gateway: Daemon, form: Any) -> None:
    assert isinstance(json.loads(chat(gateway, says(), format=form)["message"]["content"]), dict)


@pytest.mark.parametrize(("think", "thinks"), [(None, True), (True, True), ("low", True), (False, False)])
def test_a_model_thinks_unless_it_is_not_to(gateway: Daemon, think: Any, thinks: bool) -> None:
    whole = chat(gateway, says("#think"), think=think)
    lines = lines_of(post(gateway, "/api/chat", messages=[says("#think")], think=think))
    plain = chat(gateway, says("#think"), think=False)

    assert [bool(whole["message"].get("thinking")), any("thinking" in line["message"] for line in lines)] == [
        thinks
    ] * 2
    assert (whole["eval_count"] > plain["eval_count"]) is thinks


def test_texts_are_embedded(gateway: Daemon) -> None:
    many = post(gateway, "/api/embed", input=["the sea", "bread"], dimensions=8).json()
    one = post(gateway, "/api/embed", input="the sea").json()
    older = post(gateway, "/api/embeddings", prompt="the sea").json()

    assert [len(vector) for vector in many["embeddings"]] == [8, 8]
    assert one["embeddings"] == [older["embedding"]]
    assert one["prompt_eval_count"] > 0


def test_a_model_is_loaded_shown_and_let_go_of(gateway: Daemon) -> None:
    assert "cold:latest" in [model["name"] for model in gateway.get("/api/tags")["models"]]
    load = post(gateway, "/api/generate", "cold").json()
    assert "cold:latest" in loaded(gateway)
    shown = post(gateway, "/api/show", "cold").json()
    unload = post(gateway, "/api/generate", "cold", keep_alive=0).json()
    until("cold is gone", lambda: "cold:latest" not in loaded(gateway))

    assert [load["done_reason"], unload["done_reason"]] == ["load", "unload"]
    assert {"completion", "tools"} <= set(shown["capabilities"])


def test_a_client_hears_something_while_its_model_is_loaded(gateway: Daemon) -> None:
    lines = lines_of(post(gateway, "/api/chat", "cold", messages=[says(f"#echo {HI}")], keep_alive=0))

    assert lines[0]["message"]["content"] == ""
    assert "".join(line["message"]["content"] for line in lines) == HI
    assert lines[-1]["load_duration"] > 2e9
    until("cold is gone", lambda: "cold:latest" not in loaded(gateway))


@pytest.mark.parametrize(
    ("fields", "status"), [({"model": "nope"}, 404), ({"messages": 3}, 400), ({"options": {"mirostat": 1}}, 400)]
)
def test_a_refusal_is_a_message(gateway: Daemon, fields: Value, status: int) -> None:
    answer = post(gateway, "/api/chat", **{"messages": [says()], **fields})

    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
