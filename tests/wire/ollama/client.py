"""What Ollama's clients do with an answer: lines cut as Unicode has them, and the message that they collect."""

from __future__ import annotations

import json
from typing import Any

from cortex.wire.ollama import OllamaTranslation, read_chat, read_generate
from cortex.wire.openai import read_request

Value = dict[str, Any]
NOW = 1_700_000_000.25
CREATED = "2023-11-14T22:13:20.250000Z"
QUESTION = [{"role": "user", "content": "hi"}]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PNG_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


def chat(**fields: Any) -> OllamaTranslation:
    return read_chat(json.dumps({"model": "asked", "messages": QUESTION, **fields}).encode(), created_at=NOW)


def generate(**fields: Any) -> OllamaTranslation:
    return read_generate(json.dumps({"model": "asked", "prompt": "hi", **fields}).encode(), created_at=NOW)


def hub_body(translation: OllamaTranslation) -> Value:
    """The hub's body of *translation*, which the hub takes."""
    read_request(translation.kind, translation.body)
    value: Value = json.loads(translation.body)
    return value


def lines_of(raw: bytes) -> list[Value]:
    """The lines of *raw*, none of which is empty or unfinished."""
    assert raw == b"" or raw.endswith(b"\n")
    return [json.loads(line) for line in raw.decode().splitlines()]


def said_in(line: Value) -> Value:
    """What *line* says, wherever its endpoint has it."""
    if "message" in line:
        assert line["message"]["role"] == "assistant"
        return {"content": line["message"]["content"], **line["message"]}
    return {"content": line["response"], **line}


def collected(raw: bytes) -> Value:
    """The one object that a client collects from the stream *raw*, in the shape of an answer that is not streamed."""
    *pieces, last = lines_of(raw)
    assert last["done"] is True
    content, thinking, calls = "", "", []
    for piece in (*pieces, last):
        assert (piece["model"], piece["created_at"]) == (last["model"], last["created_at"])
        assert piece is last or piece["done"] is False
        said = said_in(piece)
        content += said["content"]
        thinking += said.get("thinking", "")
        calls += said.get("tool_calls", [])
    more: Value = {**({"thinking": thinking} if thinking else {}), **({"tool_calls": calls} if calls else {})}
    if "message" in last:
        return {**last, "message": {"role": "assistant", "content": content, **more}}
    return {**last, "response": content, **more}


def spoken(answer: Value) -> tuple[str, str, list[tuple[str, str, Value]]]:
    """Text, thinking and calls of *answer*."""
    said = said_in(answer)
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in said.get("tool_calls", [])
    ]
    return said["content"], said.get("thinking", ""), calls
