"""Calls as llama.cpp reads them out of what a model writes; the beginning of the answer is given, so it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cortex.engines.llamacpp import LlamaCpp
from cortex.engines.llamacpp_reading import EngineError
from cortex.wire import json
from cortex.wire.collect import Collector
from cortex.wire.engine_api import Chunk, Device, EngineSpec, Generate, Usage
from cortex.wire.openai import read_request

pytestmark = pytest.mark.e2e

CPU = Device(index=0, kind="cpu", name="cpu", memory_free_bytes=8 << 30)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
WHOLE_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Loaded:
    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self._engine, self._runner = LlamaCpp(), runner
        spec = EngineSpec(
            model="m", engine="llamacpp", path=str(path), devices=(CPU,), context=1024, options={"slots": 1}
        )
        runner.run(self._engine.load(spec, lambda *_: None))

    def go_on(self, beginning: str, **fields: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Oslo?"}, {"role": "assistant", "content": beginning}]
        asked = {"model": "m", "messages": messages, "tools": [WEATHER], "temperature": 0, "max_tokens": 24, **fields}
        request = Generate("r", "chat", read_request("chat", json.encode(asked)).body)

        async def collect() -> dict[str, Any]:
            collector = Collector("chat")
            async for event in self._engine.generate(request):
                if isinstance(event, Chunk):
                    collector.add(event.data)
            choice: dict[str, Any] = json.decode_any(collector.answer(Usage()))["choices"][0]
            return choice

        return self._runner.run(collect())


@pytest.fixture(scope="module")
def loaded(demo_gguf: Path) -> Iterator[Loaded]:
    with asyncio.Runner() as runner:
        yield Loaded(demo_gguf, runner)


@pytest.mark.parametrize("beginning", ["The tag `<tool_call>` is", 'In XML <tool_call>{"name": 5', "{"])
def test_text_that_only_looks_like_a_call_stays_text(loaded: Loaded, beginning: str) -> None:
    message = loaded.go_on(beginning)["message"]

    assert message["content"]
    assert "tool_calls" not in message


def test_a_call_that_cannot_be_read_is_an_error_and_no_answer(loaded: Loaded) -> None:
    with pytest.raises(EngineError, match="does not match"):
        loaded.go_on('<tool_call>\n{"name": "get_', max_tokens=16)


def test_a_second_call_is_kept_back_from_who_wants_one(loaded: Loaded) -> None:
    beginning = f"{WHOLE_CALL}\n" + WHOLE_CALL.partition("slo")[0]
    many = loaded.go_on(beginning, max_tokens=2)["message"]
    one = loaded.go_on(beginning, max_tokens=2, parallel_tool_calls=False)["message"]

    assert len(many["tool_calls"]) == 2
    assert "tool_calls" not in one


COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
ANSWER = {"type": "json_schema", "json_schema": {"name": "answer", "schema": COLOUR}}


def test_a_call_is_made_where_an_answer_would_have_to_follow_a_schema(loaded: Loaded) -> None:
    beginning = f"{WHOLE_CALL}\n" + WHOLE_CALL.partition("slo")[0]
    message = loaded.go_on(beginning, max_tokens=2, response_format=ANSWER)["message"]

    assert message["tool_calls"]
    assert not message["content"]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_an_answer_follows_its_schema_where_a_call_was_possible(loaded: Loaded, choice: str) -> None:
    question = [{"role": "user", "content": "Which colour has the sky?"}]
    told = loaded.go_on("", messages=question, response_format=ANSWER, tool_choice=choice)

    assert told["finish_reason"] == "stop"
    assert json.decode_any(told["message"]["content"].encode())["colour"] in ("red", "blue")
    assert "tool_calls" not in told["message"]
