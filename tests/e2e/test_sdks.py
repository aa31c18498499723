"""Official SDKs against a gateway, a neuron and a simulated engine: what their users do, in each dialect.

The simulated engine's text is a function of the whole prompt: two requests that are answered alike reached the engine
alike, to the letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from harness import Daemon, Fleet
from sdks import HI, MODELS, anthropic_client, function, openai_client, says, tool

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
SYSTEM = 'x-anthropic-billing-header: a=b;\n\n  Ärger „mit“ 😀 \\n "quotes"\t '


@pytest.fixture(scope="module")
def neuron(fleet: Fleet) -> Daemon:
    return fleet.neuron("a")


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, neuron: Daemon) -> Daemon:
    return fleet.gateway(MODELS, {"a": neuron.port})


@pytest.fixture(scope="module")
def oai(gateway: Daemon) -> Iterator[openai.OpenAI]:
    with openai_client(gateway.url) as client:
        yield client


@pytest.fixture(scope="module")
def ant(gateway: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(gateway.url) as client:
        yield client


# answers --------------------------------------------------------------------------------------------------------------


def chat_text(client: openai.OpenAI, *messages: Any, **fields: Any) -> str:
    answer = client.chat.completions.create(model="sim", messages=list(messages), **fields)
    return answer.choices[0].message.content or ""


def message_text(client: anthropic.Anthropic, *messages: Any, **fields: Any) -> str:
    answer = client.messages.create(model="sim", messages=list(messages), max_tokens=4096, **fields)
    return "".join(block.text for block in answer.content if block.type == "text")


def response_text(client: openai.OpenAI, *items: Any, **fields: Any) -> str:
    response: openai.types.responses.Response = client.responses.create(model="sim", input=list(items), **fields)
    return response.output_text


def test_a_prompt_reaches_the_engine_alike_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    """With a system prompt that has been sent as it is, wherever each dialect has its place for it."""
    expected = chat_text(oai, says(SYSTEM, "system"), says())

    assert message_text(ant, says(), system=SYSTEM) == expected
    assert message_text(ant, says(), system=[{"type": "text", "text": SYSTEM}]) == expected
    assert response_text(oai, says(), instructions=SYSTEM) == expected
    assert response_text(oai, says(SYSTEM, "developer"), says()) == expected
    assert chat_text(oai, says(SYSTEM, "developer"), says()) == expected
    assert chat_text(oai, says(SYSTEM.strip(), "system"), says()) != expected
    assert chat_text(oai, says()) != expected


def test_what_is_said_comes_back_to_the_letter_whole_and_streamed(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    text = "Ä \u2028 😀\r\n  data: [DONE]\n\nevent: message_stop\n: cortex {}"
    asked = f"#echo {text}"

    assert chat_text(oai, says(asked)) == message_text(ant, says(asked)) == response_text(oai, says(asked)) == text
    pieces = oai.chat.completions.create(model="sim", messages=[says(asked)], stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    with ant.messages.stream(model="sim", max_tokens=4096, messages=[says(asked)]) as stream:
        assert stream.get_final_text() == text
    with oai.responses.stream(model="sim", input=asked) as events:
        assert events.get_final_response().output_text == text


def test_contents_come_as_text_as_parts_or_not_at_all(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    parts: Any = [{"type": "text", "text": HI}]
    assert chat_text(oai, {"role": "user", "content": parts}) == chat_text(oai, says())
    assert message_text(ant, {"role": "user", "content": parts}) == chat_text(oai, says())
    assert response_text(oai, {"role": "user", "content": [{"type": "input_text", "text": HI}]}) == chat_text(
        oai, says()
    )
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    silent: Any = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert chat_text(oai, says(), silent, {"role": "tool", "tool_call_id": "call_1", "content": "done"})


def test_an_answer_ends_where_it_is_told_to_and_says_why(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    asked = [says("#echo one two three four")]
    cut = oai.chat.completions.create(model="sim", messages=asked, max_completion_tokens=2).choices[0]
    stopped = oai.chat.completions.create(model="sim", messages=asked, stop=["three"]).choices[0]
    short = ant.messages.create(model="sim", messages=asked, max_tokens=2)
    halted = ant.messages.create(model="sim", messages=asked, max_tokens=99, stop_sequences=["three"])
    brief = oai.responses.create(model="sim", input="#echo one two three four", max_output_tokens=2)

    assert (cut.message.content, cut.finish_reason) == ("one two", "length")
    assert (stopped.message.content, stopped.finish_reason) == ("one two ", "stop")
    assert short.stop_reason == "max_tokens"
    assert halted.stop_reason in ("stop_sequence", "end_turn")
    assert (brief.status, brief.incomplete_details and brief.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )


def test_images_are_taken_as_data_urls_and_counted(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    url = f"data:image/png;base64,{PNG}"
    text = {"type": "text", "text": HI}
    chat: Any = [{"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": url}}]}]
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    message: Any = [{"role": "user", "content": [text, {"type": "image", "source": source}]}]
    item: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": HI}, {"type": "input_image", "image_url": url}]}
    ]
    with_image = oai.chat.completions.create(model="sim", messages=chat).usage
    without = oai.chat.completions.create(model="sim", messages=[says()]).usage

    assert with_image is not None
    assert without is not None
    assert with_image.prompt_tokens == without.prompt_tokens + 256
    counted = ant.messages.create(model="sim", messages=message, max_tokens=9).usage.input_tokens
    told = oai.responses.create(model="sim", input=item).usage
    assert told is not None
    assert counted == told.input_tokens == with_image.prompt_tokens


def test_usage_is_told_in_each_dialect_and_in_a_chat_stream_only_when_asked(
    oai: openai.OpenAI, ant: anthropic.Anthropic
) -> None:
    asked = [says("#tokens 5")]
    plain = list(oai.chat.completions.create(model="sim", messages=asked, stream=True))
    told = list(
        oai.chat.completions.create(model="sim", messages=asked, stream=True, stream_options={"include_usage": True})
    )
    assert all(piece.usage is None and piece.choices for piece in plain)
    assert (told[-1].choices, told[-1].usage and told[-1].usage.completion_tokens) == ([], 5)
    prompt = told[-1].usage.prompt_tokens if told[-1].usage else 0

    with ant.messages.stream(model="sim", max_tokens=99, messages=asked) as stream:
        events = list(stream)
        usage = stream.get_final_message().usage
    start = next(event for event in events if event.type == "message_start")
    assert start.message.usage.input_tokens == prompt
    assert (usage.input_tokens, usage.output_tokens) == (prompt, 5)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 0)
    counts = oai.responses.create(model="sim", input="#tokens 5").usage
    assert counts is not None
    assert (counts.input_tokens, counts.output_tokens, counts.total_tokens) == (prompt, 5, prompt + 5)
    assert counts.input_tokens_details.cached_tokens == 0
    assert counts.output_tokens_details.reasoning_tokens == 0


def test_tokens_are_counted_as_an_answer_counts_them(ant: anthropic.Anthropic) -> None:
    asked: Any = {"model": "claude-sonnet-4", "messages": [says()], "system": SYSTEM, "tools": [tool("weather")]}
    counted = ant.messages.count_tokens(**asked).input_tokens

    assert counted == ant.messages.create(**asked, max_tokens=5).usage.input_tokens
    assert counted > ant.messages.count_tokens(model="sim", messages=[says()]).input_tokens


def test_log_probabilities_are_told_in_both_of_openai_s_dialects(oai: openai.OpenAI) -> None:
    asked = "#echo one two"
    chat = oai.chat.completions.create(model="sim", messages=[says(asked)], logprobs=True, top_logprobs=2)
    response = oai.responses.create(model="sim", input=asked, include=["message.output_text.logprobs"], top_logprobs=2)

    told = chat.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(each.token, len(each.top_logprobs)) for each in told.content] == [("one", 2), (" two", 2)]
    (part,) = [part for item in response.output if item.type == "message" for part in item.content]
    assert part.type == "output_text"
    assert [each.token for each in part.logprobs or ()] == ["one", " two"]


def test_models_are_listed_and_found_by_any_name(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    assert [m.id for m in oai.models.list()] == [m.id for m in ant.models.list(limit=2)]
    assert oai.models.retrieve("org/sim").id == oai.models.retrieve("sim").id == "org/sim"
    found = ant.models.retrieve("claude-sonnet-4")
    assert (found.id, found.type, found.display_name) == ("org/sim", "model", "org/sim")


def test_embeddings_come_in_the_dimensions_that_are_asked_for(oai: openai.OpenAI) -> None:
    few = oai.embeddings.create(model="sim", input="one", dimensions=16).data[0].embedding
    all_of_them = oai.embeddings.create(model="sim", input="one").data[0].embedding

    assert (len(few), len(all_of_them)) == (16, 64)
    assert sum(value * value for value in few) == pytest.approx(1, abs=1e-5)


def test_embeddings_come_as_floats_as_bytes_and_for_many(oai: openai.OpenAI) -> None:
    default = oai.embeddings.create(model="sim", input=["one", "two"])
    floats = oai.embeddings.create(model="sim", input="one", encoding_format="float")
    raw = oai.embeddings.create(model="sim", input="one", encoding_format="base64")

    assert [each.index for each in default.data] == [0, 1]
    assert default.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert len(floats.data[0].embedding) == 64
    assert isinstance(raw.data[0].embedding, str)
    assert default.usage.prompt_tokens > 0


def test_several_choices_and_legacy_completions_are_answered(oai: openai.OpenAI) -> None:
    chat = oai.chat.completions.create(model="sim", messages=[says("#tokens 4")], n=3)
    whole = oai.completions.create(model="sim", prompt="#echo one two")
    pieces = oai.completions.create(model="sim", prompt="#echo one two", stream=True)

    assert len({choice.message.content for choice in chat.choices}) == 3
    assert whole.choices[0].text == "".join(piece.choices[0].text for piece in pieces) == "one two"


# structure ------------------------------------------------------------------------------------------------------------


class Weather(BaseModel):
    city: str
    degrees: int
    windy: bool


def test_a_schema_binds_the_answer_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    parsed = oai.chat.completions.parse(model="sim", messages=[says()], response_format=Weather)
    response = oai.responses.parse(model="sim", input=HI, text_format=Weather)
    message = ant.messages.parse(model="sim", messages=[says()], max_tokens=400, output_format=Weather)

    assert isinstance(parsed.choices[0].message.parsed, Weather)
    assert isinstance(response.output_parsed, Weather)
    assert isinstance(message.parsed_output, Weather)
    free = oai.chat.completions.create(model="sim", messages=[says("as JSON")], response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content or ""), dict)


def test_a_schema_binds_an_answer_beside_tools_in_every_dialect(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    """And a call is a call."""
    asked: Any = {"model": "sim", "response_format": schema_of(Weather), "tools": [function("look")]}
    chat, call = (oai.chat.completions.create(**asked, messages=[says(text)]) for text in (HI, "#tool"))
    text: Any = {"format": {"type": "json_schema", "name": "w", "schema": Weather.model_json_schema()}}
    response = oai.responses.create(model="sim", input=HI, text=text, tools=[function("look", flat=True)])
    message = ant.messages.parse(
        model="sim", messages=[says()], max_tokens=400, output_format=Weather, tools=[tool("look")]
    )

    assert Weather.model_validate_json(chat.choices[0].message.content or "")
    assert [each.type for each in call.choices[0].message.tool_calls or ()] == ["function"]
    assert Weather.model_validate_json(response.output_text)
    assert isinstance(message.parsed_output, Weather)


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "w", "schema": kind.model_json_schema()}}


# agents ---------------------------------------------------------------------------------------------------------------


def test_an_agent_works_through_chat_completions(oai: openai.OpenAI) -> None:
    tools = [function("weather"), function("time")]
    messages: list[Any] = [says(SYSTEM, "system"), says("#think #tools 2")]
    for turn in range(2):
        with oai.chat.completions.stream(model="sim", messages=messages, tools=tools) as stream:
            message = stream.get_final_completion().choices[0].message
        calls = message.tool_calls or []
        assert [call.function.name for call in calls] == ["weather", "time"]
        assert {json.loads(call.function.arguments)["city"] for call in calls} <= {"Paris", "Rome"}
        assert len({call.id for call in calls}) == 2
        messages.append(message.to_dict())
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        final = oai.chat.completions.create(model="sim", messages=messages, tools=tools)
        assert (final.choices[0].finish_reason, final.choices[0].message.tool_calls) == ("stop", None)
        messages += [final.choices[0].message.to_dict(), says(f"{turn} #tools 2")]


def test_an_agent_works_through_messages_and_gives_its_thoughts_back(ant: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "sim",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}],
        "tools": [tool("weather"), tool("time")],
        "thinking": {"type": "adaptive"},
    }
    messages: list[Any] = [says("#think #tools 2")]
    for turn in range(2):
        with ant.messages.stream(**asked, messages=messages) as stream:
            message = stream.get_final_message()
        thought, *calls = message.content
        assert thought.type == "thinking"
        assert thought.thinking
        assert thought.signature
        assert [call.name for call in calls if call.type == "tool_use"] == ["weather", "time"]
        assert message.stop_reason == "tool_use"
        assert {call.input["city"] for call in calls if call.type == "tool_use"} <= {"Paris", "Rome"}
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
            for call in calls
            if call.type == "tool_use"
        ]
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        final = ant.messages.create(**asked, messages=messages)
        assert final.stop_reason == "end_turn"
        messages += [{"role": "assistant", "content": final.content}, says(f"{turn} #think #tools 2")]


def test_an_agent_works_through_responses_item_by_item(oai: openai.OpenAI) -> None:
    tools = [function("weather", flat=True), function("time", flat=True)]
    items: list[Any] = [says("#think #tools 2")]
    with oai.responses.stream(
        model="sim", input=items, tools=tools, store=False, include=["reasoning.encrypted_content"]
    ) as stream:
        response = stream.get_final_response()
    thought, *calls = response.output
    assert thought.type == "reasoning"
    assert thought.encrypted_content
    assert [call.name for call in calls if call.type == "function_call"] == ["weather", "time"]
    items += [item.to_dict() for item in response.output]
    items += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        for call in calls
        if call.type == "function_call"
    ]

    final = oai.responses.create(model="sim", input=items, tools=tools, store=False)
    assert final.output_text
    assert [item.type for item in final.output][-1] == "message"


def test_an_agent_goes_on_from_the_response_before(oai: openai.OpenAI) -> None:
    tools = [function("weather", flat=True)]
    first = oai.responses.create(model="sim", input="#tool", tools=tools, instructions=SYSTEM)
    (call,) = [item for item in first.output if item.type == "function_call"]
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    second = oai.responses.create(
        model="sim", input=result, tools=tools, instructions=SYSTEM, previous_response_id=first.id
    )

    assert second.output_text
    written_out = [says("#tool"), call.to_dict(), *result]
    assert second.output_text == response_text(oai, *written_out, tools=tools, instructions=SYSTEM)
    assert oai.responses.retrieve(second.id).output_text == second.output_text
    oai.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError) as lost:
        oai.responses.create(model="sim", input=HI, previous_response_id=second.id)
    assert lost.value.code == "previous_response_not_found"


def test_a_tool_is_called_when_it_must_be_and_not_when_it_must_not(
    oai: openai.OpenAI, ant: anthropic.Anthropic
) -> None:
    tools = [function("weather"), function("time")]
    named = oai.chat.completions.create(
        model="sim",
        messages=[says()],
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "time"}},
    )
    none = oai.chat.completions.create(model="sim", messages=[says("#tool")], tools=tools, tool_choice="none")
    single = oai.chat.completions.create(
        model="sim", messages=[says("#tools 2")], tools=tools, parallel_tool_calls=False
    )
    must = ant.messages.create(
        model="sim", messages=[says()], max_tokens=99, tools=[tool("weather")], tool_choice={"type": "any"}
    )
    one = ant.messages.create(
        model="sim",
        messages=[says("#tools 2")],
        max_tokens=99,
        tools=[tool("weather"), tool("time")],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )

    assert [each.function.name for each in named.choices[0].message.tool_calls or () if each.type == "function"] == [
        "time"
    ]
    assert none.choices[0].message.tool_calls is None
    assert len(single.choices[0].message.tool_calls or ()) == 1
    assert must.stop_reason == "tool_use"
    assert len([block for block in one.content if block.type == "tool_use"]) == 1


def test_thoughts_are_shown_to_those_who_ask(oai: openai.OpenAI, ant: anthropic.Anthropic) -> None:
    def kinds(**fields: Any) -> list[str]:
        answer = ant.messages.create(model="sim", messages=[says("#think")], max_tokens=99, **fields)
        return [block.type for block in answer.content]

    assert kinds() == ["text"]
    assert kinds(thinking={"type": "enabled", "budget_tokens": 1024}) == ["thinking", "text"]
    message: Any = oai.chat.completions.create(model="sim", messages=[says("#think")]).choices[0].message
    assert message.reasoning_content
    shown = oai.responses.create(model="sim", input="#think", reasoning={"summary": "auto"}).output[0]
    assert shown.type == "reasoning"
    assert shown.summary


# who asks -------------------------------------------------------------------------------------------------------------


def test_any_key_will_do_where_there_is_no_key_file(gateway: Daemon) -> None:
    body = {"model": "sim", "messages": [says()], "max_tokens": 2}
    for headers in ({}, {"x-api-key": "dummy"}, {"authorization": "Bearer dummy"}, {"authorization": "Basic eDp5"}):
        for path in ("/v1/messages", "/v1/chat/completions"):
            answer = httpx2.post(gateway.url + path, json=body, headers=headers, trust_env=False)
            assert answer.status_code == 200, (headers, answer.text)
