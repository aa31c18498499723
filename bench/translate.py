#!/usr/bin/env python3
"""What a dialect costs: microseconds of one core for each chunk of the hub's, and for an agent's request to be read.

Chunks come one by one, as a model that is slower than the network sends them. A figure is the best of several runs.

    .venv/bin/python bench/translate.py [--chunks 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from cortex.wire.anthropic import read_messages
from cortex.wire.ollama import read_chat, read_generate
from cortex.wire.responses.translation import read_responses
from cortex.wire.sse import data_event
from cortex.wire.translation import Opening, Translation, opening_comment

LIMIT_US = 15.0
NOW = 1_700_000_000
TEXT = " piece"
ARGUMENTS = '{"path":"' + "x" * 6

# What an agent sends: long instructions, twenty tools, and a few turns of one question, one call and its result.
RULES, QUESTION, RESULT = "rule " * 4000, "word " * 400, "line\n" * 400
SCHEMA = {"type": "object", "properties": {f"field_{at}": {"type": "string"} for at in range(20)}}
TOOLS = [{"name": f"tool_{at}", "description": "d" * 800} for at in range(20)]
TURNS = 10

Body = dict[str, Any]


def anthropics() -> Body:
    """Return the agent's request as the Messages API has it."""
    call = {"type": "tool_use", "id": "c", "name": "tool_1", "input": {"field_1": "x"}}
    turn = [
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": RESULT}]},
    ]
    tools = [{**tool, "input_schema": SCHEMA} for tool in TOOLS]
    asked = {"model": "m", "max_tokens": 64, "stream": True, "thinking": {"type": "adaptive"}}
    return {**asked, "system": RULES, "messages": turn * TURNS, "tools": tools}


def responses() -> Body:
    """Return the agent's request as the Responses API has it."""
    turn = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        {"type": "function_call", "call_id": "c", "name": "tool_1", "arguments": '{"field_1":"x"}'},
        {"type": "function_call_output", "call_id": "c", "output": RESULT},
    ]
    tools = [{"type": "function", **tool, "parameters": SCHEMA} for tool in TOOLS]
    rules = {"type": "message", "role": "developer", "content": RULES}
    return {"model": "m", "stream": True, "input": [rules, *turn * TURNS], "tools": tools}


def ollamas() -> Body:
    """Return the agent's request as Ollama's chat has it."""
    turn = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "tool_calls": [{"function": {"name": "tool_1", "arguments": {"field_1": "x"}}}]},
        {"role": "tool", "tool_name": "tool_1", "content": RESULT},
    ]
    tools = [{"type": "function", "function": {**tool, "parameters": SCHEMA}} for tool in TOOLS]
    return {"model": "m", "messages": [{"role": "system", "content": RULES}, *turn * TURNS], "tools": tools}


def generation() -> Body:
    """Return as much in one prompt."""
    return {"model": "m", "system": RULES, "prompt": (QUESTION + RESULT) * TURNS}


# A dialect is what makes a translation of a streamed request, and such a request.
DIALECTS: dict[str, tuple[Callable[[bytes], Translation], Callable[[], Body]]] = {
    "anthropic": (read_messages, anthropics),
    "responses": (lambda body: read_responses(body, response_id="resp_0123456789abcdef", created_at=NOW), responses),
    "ollama chat": (lambda body: read_chat(body, created_at=NOW), ollamas),
    "ollama text": (lambda body: read_generate(body, created_at=NOW), generation),
}


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    """Return one chunk of the hub's, with all that engines put around a delta."""
    head = {"id": "chatcmpl-0123456789abcdef01234567", "object": "chat.completion.chunk", "created": NOW}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return data_event(json.dumps({**head, "model": "m", "system_fingerprint": "b1", "choices": [choice]}).encode())


def text(count: int) -> Iterator[bytes]:
    yield from (chunk({"content": TEXT}) for _ in range(count))


def reasoning(count: int) -> Iterator[bytes]:
    yield from (chunk({"reasoning_content": TEXT}) for _ in range(count))


def call(count: int) -> Iterator[bytes]:
    named = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "write", "arguments": ARGUMENTS}}
    yield chunk({"tool_calls": [named]})
    piece = {"index": 0, "function": {"arguments": "x" * 6}}
    yield from (chunk({"tool_calls": [piece]}) for _ in range(count - 1))


ANSWERS: dict[str, Callable[[int], Iterator[bytes]]] = {"text": text, "reasoning": reasoning, "tool call": call}


def stream_of(answer: Callable[[int], Iterator[bytes]], count: int) -> list[bytes]:
    """Return a whole stream of *count* chunks, without its usage."""
    opening = opening_comment(Opening(100, 10))
    return [
        opening,
        chunk({"role": "assistant", "content": ""}),
        *answer(count),
        chunk({}, "stop"),
        b"data: [DONE]\n\n",
    ]


def chunk_us(translation: Translation, stream: list[bytes]) -> float:
    """Return the CPU microseconds a chunk of *stream* takes."""
    began = time.process_time()
    for data in stream:
        translation.feed(data)
    translation.end()
    return 1e6 * (time.process_time() - began) / len(stream)


def request_us(read: Callable[[bytes], Translation], body: bytes) -> float:
    """Return the CPU microseconds in which *body* is read."""
    began = time.process_time()
    read(body)
    return 1e6 * (time.process_time() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    columns = " ".join(f"{f'{kind} µs':>12}" for kind in ANSWERS)
    print(f"{'dialect':<12} {columns} {'request µs':>12}   (a chunk; limit {LIMIT_US:g})")
    streams = [stream_of(answer, options.chunks) for answer in ANSWERS.values()]
    for name, (read, asked) in DIALECTS.items():
        body = json.dumps(asked()).encode()
        costs = [min(chunk_us(read(body), stream) for _ in range(options.rounds)) for stream in streams]
        reading = min(request_us(read, body) for _ in range(options.rounds))
        row = " ".join(f"{cost:>12.2f}" for cost in costs)
        print(f"{name:<12} {row} {reading:>12.0f}{'   over' if max(costs) > LIMIT_US else ''}")


if __name__ == "__main__":
    main()
