"""Images on real native code: a PNG goes in by every dialect, and other tokens come out for another picture."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Daemon, Fleet
from tiny_vision import IMAGE_TOKENS, png, write_decoder, write_projector

RED, BLUE = png(250, 10, 10), png(10, 10, 250)
QUESTION = "What is this?"
TOKENS = 8


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Daemon:
    seeing, blind = fleet.directory / "seeing", fleet.directory / "blind"
    for directory in (seeing, blind):
        directory.mkdir()
        write_decoder(directory / "tiny.gguf")
    write_projector(seeing / "mmproj-tiny-f16.gguf")
    models = "".join(
        f'[[models]]\nid = "{name}"\nsource = "{directory / "tiny.gguf"}"\ncontext = 512\noptions = {{ {options} }}\n'
        for name, directory, options in (
            ("seeing", seeing, "slots = 2"),
            ("blind", blind, ""),
            ("named", blind, f'mmproj = "{seeing / "mmproj-tiny-f16.gguf"}"'),
            ("covered", seeing, "mmproj = false"),
        )
    )
    return fleet.gateway(models, {"a": fleet.neuron("a").port})


def post(gateway: Daemon, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(gateway.url + path, json={"model": "seeing", **body}, timeout=60, trust_env=False)


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{text_of(image)}"


def parts(*images: bytes) -> list[dict[str, Any]]:
    seen = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"type": "text", "text": QUESTION}, *seen]


def chat(gateway: Daemon, *images: bytes, **fields: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": parts(*images) if images else QUESTION}]
    body = {"messages": messages, "max_tokens": TOKENS, "temperature": 0, **fields}
    return post(gateway, "/v1/chat/completions", body)


def by_chat(gateway: Daemon, image: bytes) -> tuple[str, int]:
    answer = chat(gateway, image).raise_for_status().json()
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]


def by_messages(gateway: Daemon, image: bytes) -> tuple[str, int]:
    source = {"type": "base64", "media_type": "image/png", "data": text_of(image)}
    content = [{"type": "text", "text": QUESTION}, {"type": "image", "source": source}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "temperature": 0}
    answer = post(gateway, "/v1/messages", body).raise_for_status().json()
    usage = answer["usage"]
    return answer["content"][0]["text"], usage["input_tokens"] + (usage["cache_read_input_tokens"] or 0)


def by_responses(gateway: Daemon, image: bytes) -> tuple[str, int]:
    content = [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": data_url(image)}]
    body = {"input": [{"role": "user", "content": content}], "max_output_tokens": TOKENS, "temperature": 0}
    answer = post(gateway, "/v1/responses", body).raise_for_status().json()
    return answer["output"][0]["content"][0]["text"], answer["usage"]["input_tokens"]


def by_ollama(gateway: Daemon, image: bytes) -> tuple[str, int]:
    message = {"role": "user", "content": QUESTION, "images": [text_of(image)]}
    body = {"messages": [message], "stream": False, "options": {"num_predict": TOKENS, "temperature": 0}}
    answer = post(gateway, "/api/chat", body).raise_for_status().json()
    return answer["message"]["content"], answer["prompt_eval_count"]


@pytest.mark.parametrize("ask", [by_chat, by_messages, by_responses, by_ollama])
def test_another_picture_is_another_answer_and_its_tokens_count(
    gateway: Daemon, ask: Callable[[Daemon, bytes], tuple[str, int]]
) -> None:
    red, blue, again = ask(gateway, RED), ask(gateway, BLUE), ask(gateway, RED)
    without = chat(gateway).raise_for_status().json()["usage"]["prompt_tokens"]

    assert red == again
    assert red[0] != blue[0]
    assert red[1] == blue[1] >= without + IMAGE_TOKENS


def test_every_dialect_asks_the_same(gateway: Daemon) -> None:
    answers = {ask(gateway, RED) for ask in (by_chat, by_messages, by_responses)}

    assert len(answers) == 1


def test_several_images_count_each_and_their_order_matters(gateway: Daemon) -> None:
    one, two = chat(gateway, RED).json(), chat(gateway, RED, BLUE).json()
    turned = chat(gateway, BLUE, RED).json()

    assert two["usage"]["prompt_tokens"] - one["usage"]["prompt_tokens"] == IMAGE_TOKENS
    assert two["choices"][0]["message"] != turned["choices"][0]["message"]


def test_a_second_turn_prefills_only_what_is_new(gateway: Daemon) -> None:
    first = chat(gateway, BLUE).json()
    said = first["choices"][0]["message"]["content"]
    turns = [{"role": "user", "content": parts(BLUE)}, {"role": "assistant", "content": said}]
    second = chat(gateway, messages=[*turns, {"role": "user", "content": "And now?"}]).json()["usage"]

    assert second["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"] - 2


def test_sight_is_advertised_only_where_there_is_a_projector(gateway: Daemon) -> None:
    for model in ("named", "blind", "covered"):
        chat(gateway, model=model).raise_for_status()
    shown = {
        model: httpx2.post(gateway.url + "/api/show", json={"model": model}, timeout=10, trust_env=False).json()
        for model in ("seeing", "named", "blind", "covered")
    }

    assert [model for model, told in shown.items() if "vision" in told["capabilities"]] == ["seeing", "named"]
    assert chat(gateway, RED, model="named").json()["choices"] == chat(gateway, RED).json()["choices"]


@pytest.mark.parametrize("model", ["blind", "covered"])
def test_a_model_that_does_not_see_says_what_to_do(gateway: Daemon, model: str) -> None:
    answer = chat(gateway, RED, model=model)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "vision_unsupported"
    assert "takes no images: put its projector" in answer.json()["error"]["message"]


def test_a_damaged_image_and_a_forced_call_are_refused_by_name(gateway: Daemon) -> None:
    damaged = chat(gateway, RED[:60])
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    forced = chat(gateway, RED, tools=[tool], tool_choice="required")

    assert (damaged.status_code, forced.status_code) == (400, 400)
    assert chat(gateway, RED).status_code == 200


def test_tokens_of_images_are_not_guessed(gateway: Daemon) -> None:
    content = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text_of(RED)}}]
    answer = post(gateway, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": content}]})

    assert answer.status_code == 400
    assert "count without images" in answer.json()["error"]["message"]


def test_a_projector_that_is_another_models_fails_the_load_and_says_so(fleet: Fleet, tmp_path: Path) -> None:
    write_decoder(tmp_path / "wide.gguf", width=128)
    write_projector(tmp_path / "mmproj.gguf")
    node = fleet.daemons["a"]
    spec = {"id": "wide", "source": str(tmp_path / "wide.gguf"), "context": 512}
    answer = httpx2.post(node.url + "/models/load", json=spec, timeout=60, trust_env=False)

    assert answer.status_code >= 500
    assert "mmproj.gguf" in answer.json()["error"]["message"]
