"""Requests and readers as strict as those of editors written in Rust, such as Zed: every key they need, in every chunk.

Zed cannot be run here; what it sends and what it wants of a stream is written down after its own types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import msgspec
import pytest

from harness import Daemon, Fleet

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": None,
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct):
    index: int
    id: str | None = None
    function: Function | None = None


class Delta(msgspec.Struct):
    role: Literal["user", "assistant", "system", "tool"] | None = None
    content: str | None = None
    tool_calls: list[CallPiece] | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    index: int
    delta: Delta | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Chunk(msgspec.Struct):
    choices: list[Choice]
    usage: Usage | None = None


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, demo_gguf: Path) -> Daemon:
    models = f"""
    [[models]]
    id = "smol"
    source = "{demo_gguf}"
    context = 2048
    [[models]]
    id = "sim"
    engine = "simulated"
    options = {{ load_seconds = 0.1, tokens_per_second = 500 }}
    """
    return fleet.gateway(models, {"a": fleet.neuron("a").port})


def asked(model: str, text: str, *turns: dict[str, Any]) -> dict[str, Any]:
    """Return a request with all that an editor's agent sends on a turn."""
    return {
        "model": model,
        "messages": [{"role": "system", "content": "You edit code."}, {"role": "user", "content": text}, *turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 48,
        "stop": ["<end>"],
        "temperature": 1.0,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "tools": [TOOL],
        "prompt_cache_key": "thread-1",
    }


def chunks(gateway: Daemon, body: dict[str, Any]) -> list[Chunk]:
    """Return the chunks of a stream, read line by line: what is no `data:` line is passed over."""
    return list(_chunks(gateway, body))


def _chunks(gateway: Daemon, body: dict[str, Any]) -> Iterator[Chunk]:
    url, headers = gateway.url + "/v1/chat/completions", {"authorization": "Bearer none"}
    with httpx2.stream("POST", url, json=body, headers=headers, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield msgspec.json.decode(line[6:], type=Chunk)


@pytest.mark.parametrize("model", ["sim", "smol"])
def test_every_chunk_has_what_a_strict_reader_needs_and_usage_comes_once(gateway: Daemon, model: str) -> None:
    found = chunks(gateway, asked(model, "Say hello."))

    deltas = [choice.delta for chunk in found for choice in chunk.choices if choice.delta is not None]
    assert "".join(delta.content or "" for delta in deltas)
    (usage,) = [chunk.usage for chunk in found if chunk.usage is not None]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert [choice.finish_reason for chunk in found for choice in chunk.choices][-1] in ("stop", "length")


def test_a_tool_is_called_answered_and_the_turn_goes_on(gateway: Daemon) -> None:
    """With null content, results as a list of parts and as an empty one, and reasoning handed back."""
    first = chunks(gateway, asked("sim", "#tool look into a file"))
    pieces = [
        piece for chunk in first for choice in chunk.choices for piece in (choice.delta or Delta()).tool_calls or ()
    ]
    name = next(piece.function.name for piece in pieces if piece.function and piece.function.name)
    call = next(piece.id for piece in pieces if piece.id)
    arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert (name, list(json.loads(arguments))) == ("read_file", ["path"])

    made = {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [made], "reasoning_content": "It wants a file."},
        {"role": "tool", "content": [{"type": "text", "text": "fn main() {}"}], "tool_call_id": call},
        {"role": "assistant", "content": None, "tool_calls": [{**made, "id": "call_2"}]},
        {"role": "tool", "content": [], "tool_call_id": "call_2"},
    ]
    second = chunks(gateway, asked("sim", "#tool look into a file", *turns))

    assert [choice.finish_reason for chunk in second for choice in chunk.choices][-1] in ("stop", "length")


def test_an_image_beside_text_is_taken(gateway: Daemon) -> None:
    body = asked("sim", "")
    body["messages"][1]["content"] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]

    assert chunks(gateway, body)
