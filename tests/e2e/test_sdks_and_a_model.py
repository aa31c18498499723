"""Official SDKs against a real model: what a simulated engine cannot show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from harness import Daemon, Fleet
from sdks import anthropic_client, function, openai_client, says, tool

QUESTION = "Name one colour of the rainbow."
SYSTEM = "You answer in one short sentence, and you are polite. " * 20


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, demo_gguf: Path) -> Daemon:
    models = f'[[models]]\nid = "org/smol"\nsource = "{demo_gguf}"\naliases = ["demo"]\ncontext = 2048\n'
    return fleet.gateway(models, {"a": fleet.neuron("a").port})


@pytest.fixture(scope="module")
def oai(gateway: Daemon) -> Iterator[openai.OpenAI]:
    with openai_client(gateway.url) as client:
        yield client


@pytest.fixture(scope="module")
def ant(gateway: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(gateway.url) as client:
        yield client


def test_a_prompt_reaches_a_real_model_alike_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    """Counted and answered: a greedy model says the same to the same prompt, whole or streamed."""
    asked: Any = {"model": "demo", "temperature": 0}
    messages = [says(SYSTEM, "system"), says(QUESTION)]
    chat = oai.chat.completions.create(**asked, messages=messages, max_tokens=12)
    message = ant.messages.create(
        model="demo", system=SYSTEM, messages=[says(QUESTION)], max_tokens=12, extra_body={"temperature": 0}
    )
    with ant.messages.stream(
        model="demo", system=SYSTEM, messages=[says(QUESTION)], max_tokens=12, extra_body={"temperature": 0}
    ) as stream:
        streamed = stream.get_final_text()
    *_, last = oai.responses.create(**asked, instructions=SYSTEM, input=QUESTION, max_output_tokens=12, stream=True)

    text = chat.choices[0].message.content
    assert text
    assert [block.text for block in message.content if block.type == "text"] == [text]
    assert streamed == last.response.output_text == text
    assert (last.type, chat.choices[0].finish_reason) == ("response.incomplete", "length")
    counted = ant.messages.count_tokens(model="demo", system=SYSTEM, messages=[says(QUESTION)]).input_tokens
    usage = message.usage
    assert chat.usage is not None
    assert counted == chat.usage.prompt_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_what_a_prompt_shares_with_the_one_before_is_told_as_cached(
    oai: openai.OpenAI, ant: anthropic.Anthropic
) -> None:
    ask: Any = {"model": "demo", "max_tokens": 2, "system": SYSTEM + "Cached."}
    first = ant.messages.create(**ask, messages=[says(QUESTION)]).usage
    second = ant.messages.create(**ask, messages=[says(QUESTION + " Please.")]).usage
    messages = [says(SYSTEM + "Cached.", "system"), says(QUESTION + " Please.")]
    chat = oai.chat.completions.create(model="demo", messages=messages, max_tokens=2).usage

    assert (second.cache_read_input_tokens or 0) > 100
    assert second.input_tokens < first.input_tokens + (first.cache_read_input_tokens or 0)
    assert chat is not None
    assert chat.prompt_tokens_details is not None
    assert (chat.prompt_tokens_details.cached_tokens or 0) > 100


def test_a_forced_call_is_a_call_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    called = ant.messages.create(
        model="demo",
        messages=[says("What is the weather in Rome?")],
        max_tokens=60,
        tools=[tool("weather")],
        tool_choice={"type": "tool", "name": "weather"},
    )
    response = oai.responses.create(
        model="demo",
        input="What is the weather in Rome?",
        max_output_tokens=60,
        tools=[function("weather", flat=True)],
        tool_choice={"type": "function", "name": "weather"},
    )

    (block,) = called.content
    assert block.type == "tool_use"
    assert (called.stop_reason, block.name) == ("tool_use", "weather")
    assert block.input["city"] in ("Paris", "Rome")
    (item,) = response.output
    assert item.type == "function_call"
    assert json.loads(item.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": "It is sunny in Rome."}
    done = ant.messages.create(
        model="demo",
        messages=[
            says("What is the weather in Rome?"),
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [result]},
        ],
        max_tokens=12,
        tools=[tool("weather")],
        tool_choice={"type": "none"},
    )
    assert [block.type for block in done.content] == ["text"]


def test_a_schema_binds_a_real_model_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "warm": {"type": "boolean"}},
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    message = ant.messages.create(
        model="demo",
        messages=[says(QUESTION)],
        max_tokens=60,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    response = oai.responses.create(
        model="demo",
        input=QUESTION,
        max_output_tokens=60,
        text={"format": {"type": "json_schema", "name": "c", "schema": schema, "strict": True}},
    )

    beside_tools = oai.responses.create(
        model="demo",
        input=QUESTION,
        max_output_tokens=60,
        text={"format": {"type": "json_schema", "name": "c", "schema": schema, "strict": True}},
        tools=[function("weather", flat=True)],
        temperature=0,
    )

    said = [block.text for block in message.content if block.type == "text"]
    for text in (*said, response.output_text, beside_tools.output_text):
        assert json.loads(text)["colour"] in ("red", "blue")


def test_a_conversation_goes_on_from_a_stored_response(oai: openai.OpenAI) -> None:
    first = oai.responses.create(model="demo", input=QUESTION, max_output_tokens=8, temperature=0)
    second = oai.responses.create(
        model="demo", input="And another?", previous_response_id=first.id, max_output_tokens=8, temperature=0
    )
    written_out: Any = [says(QUESTION), says(first.output_text, "assistant"), says("And another?")]
    whole = oai.responses.create(model="demo", input=written_out, max_output_tokens=8, temperature=0)

    assert second.output_text == whole.output_text
    assert second.usage is not None
    assert whole.usage is not None
    assert second.usage.input_tokens == whole.usage.input_tokens


def test_a_prompt_that_a_real_model_cannot_hold_is_told_in_anthropic_s_words(ant: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2048 maximum"):
        ant.messages.create(model="demo", messages=[says("word " * 5000)], max_tokens=9)
