from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.engines.simulated_answer import answer_chat
from cortex.wire import openai
from cortex.wire.anthropic import read_messages
from cortex.wire.anthropic.request import read_request
from cortex.wire.engine_api import EngineSpec
from cortex.wire.translation import Translation
from wire.anthropic.grammar import collected
from wire.hub import call, chunk, hub_answer, hub_stream

ASKED = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "q"}]}


def test_a_translation_fits_the_seam() -> None:
    subject: Translation = read_messages(json.dumps({**ASKED, "stream": True, "x": 1}).encode())

    assert (subject.model, subject.stream, subject.ignored) == ("m", True, ("x",))
    assert openai.read_head(subject.body).stream


def test_without_a_stream_the_hub_is_asked_for_none() -> None:
    subject = read_messages(json.dumps(ASKED).encode())

    assert not subject.stream
    assert openai.read_request("chat", subject.body).stream is False


@given(
    reasoning=st.text(max_size=20),
    text=st.text(max_size=20),
    arguments=st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), max_size=3),
    thinking=st.sampled_from([{"type": "enabled"}, {"type": "adaptive", "display": "omitted"}]),
    streams=st.booleans(),
)
def test_an_answer_that_comes_back_is_what_the_model_said(
    reasoning: str, text: str, arguments: list[dict[str, int]], thinking: dict[str, Any], streams: bool
) -> None:
    """From the hub to the client and back into the hub's next request."""
    chunks = [chunk({"reasoning_content": reasoning}), chunk({"content": text})]
    chunks += [chunk(call(at, json.dumps(value), f"f{at}")) for at, value in enumerate(arguments)]
    chunks.append(chunk({}, "tool_calls" if arguments else "stop"))
    subject = read_messages(json.dumps({**ASKED, "thinking": thinking}).encode())
    answer = collected(subject.feed(hub_stream(*chunks))) if streams else json.loads(subject.whole(hub_answer(*chunks)))

    history = [*ASKED["messages"], {"role": "assistant", "content": answer["content"]}]  # type: ignore[misc]
    body = {**ASKED, "messages": [*history, {"role": "user", "content": "next"}]}
    message = json.loads(read_request(json.dumps(body).encode()).body)["messages"][1]

    assert message.get("reasoning_content", "") == reasoning
    assert (message["content"] or "") == text
    assert [
        (each["id"], each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in message.get("tool_calls", [])
    ] == [(f"call_f{at}", f"f{at}", value) for at, value in enumerate(arguments)]


def test_a_simulated_model_answers_as_anthropic_does() -> None:
    """Nothing between is made up: the hub reads the request, an engine's own chunks are its answer."""
    tools = [{"name": name, "input_schema": {"type": "object", "required": ["a"]}} for name in "fg"]
    asked = {**ASKED, "max_tokens": 500, "tools": tools, "stream": True, "thinking": {"type": "adaptive"}}
    asked["messages"] = [{"role": "user", "content": "#think #tools 2"}]
    subject = read_messages(json.dumps(asked).encode())
    spec = EngineSpec(model="m", engine="simulated", path="", devices=())
    answer = answer_chat(openai.read_request("chat", subject.body).body, spec, 4096, 1)

    message = collected(subject.feed(hub_stream(*answer.opening, *chain.from_iterable(answer.steps))))

    assert [block["type"] for block in message["content"]] == ["thinking", "tool_use", "tool_use"]
    assert [block["name"] for block in message["content"][1:]] == ["f", "g"]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("text", ["loading 40%", "two\nlines\r\n", ""])
def test_a_keep_alive_is_a_ping_whatever_it_says(text: str) -> None:
    raw = read_messages(json.dumps(ASKED).encode()).keep_alive(text)

    lines = raw.decode().split("\n")
    assert [line.partition(":")[0] for line in lines if line] == ["", "event", "data"]
