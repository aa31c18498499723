from __future__ import annotations

import ast
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from cortex.core.errors import ContextLengthExceeded, CortexError, EngineFailed, Overloaded, UpstreamFailed
from cortex.wire.errors import openai_event
from cortex.wire.responses.stored import decode_stored, encode_stored
from cortex.wire.responses.translation import read_responses
from cortex.wire.sse import KEEP_ALIVE
from cortex.wire.translation import Opening, Translation, opening_comment
from wire.responses.dialogue import (
    DONE,
    Value,
    call,
    calls,
    check_response,
    chunk,
    collected,
    ended,
    events,
    hub_body,
    output,
    read,
    streaming,
    told,
    types,
    usage,
)

CLIENTS = Path(__file__).parents[4] / "shared" / "clients"

RICH = (
    opening_comment(Opening(7, 2))
    + chunk(role="assistant", content="")
    + KEEP_ALIVE
    + chunk(reasoning_content="Let me ")
    + chunk(reasoning_content="see…")
    + chunk(content="Größe: ")
    + chunk(content="日本\n\n語")
    + calls(call(0, "", "f", "call_a"))
    + calls(call(0, '{"x":'))
    + calls(call(0, "1}"))
    + calls(call(1, "{}", "g", "call_b"))
    + ended("tool_calls")
)

TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "ns", "description": "n", "tools": [{"type": "function", "name": "g"}]},
]


def test_a_translation_fits_the_seam() -> None:
    translation: Translation = streaming()

    assert (translation.model, translation.stream, translation.ignored) == ("m", True, ())


def test_a_rich_stream_is_told_item_by_item() -> None:
    found = collected(RICH)

    assert types(found) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_the_last_event_carries_the_whole_output() -> None:
    reasoning, message, first, second = output(collected(RICH))

    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see…"}]
    assert message["content"][0]["text"] == "Größe: 日本\n\n語"
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_a", "f", '{"x":1}')
    assert (second["call_id"], second["name"], second["arguments"]) == ("call_b", "g", "{}")
    assert {item["status"] for item in (reasoning, message, first, second)} == {"completed"}


def test_usage_comes_with_the_end() -> None:
    details = {"completion_tokens_details": {"reasoning_tokens": 3}}

    found = collected(chunk(content="x") + chunk("stop") + usage(**details) + DONE)

    assert found[-1]["response"]["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    }


def test_usage_before_the_end_counts() -> None:
    found = collected(usage() + chunk(content="x") + chunk("stop") + DONE)

    assert found[-1]["response"]["usage"]["total_tokens"] == 12


def test_usage_that_never_came_is_null() -> None:
    assert collected(chunk("stop", content="x") + DONE)[-1]["response"]["usage"] is None


def test_every_border_gives_the_same_stream() -> None:
    whole = streaming()
    expected = whole.feed(RICH) + whole.end()

    for border in range(len(RICH)):
        cut = streaming()

        assert cut.feed(RICH[:border]) + cut.feed(RICH[border:]) + cut.end() == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, len(RICH)), max_size=40))
def test_any_borders_give_the_same_stream(borders: list[int]) -> None:
    whole, cut = streaming(), streaming()
    at = [0, *sorted(borders), len(RICH)]

    pieces = [cut.feed(RICH[start:stop]) for start, stop in pairwise(at)]

    assert b"".join(pieces) + cut.end() == whole.feed(RICH) + whole.end()


def test_a_stream_with_carriage_returns_is_read_as_well() -> None:
    assert output(collected(RICH.replace(b"}\n\n", b"}\r\n\r\n"))) == output(collected(RICH))


def test_nothing_is_told_before_the_node_begins() -> None:
    assert streaming().feed(KEEP_ALIVE) == b""


def test_a_terminator_and_comments_say_nothing() -> None:
    assert streaming().feed(KEEP_ALIVE + DONE + b"data:") == b""


def test_the_opening_begins_the_response() -> None:
    found = events(streaming().feed(opening_comment(Opening(7))))

    assert types(found) == ["created", "in_progress"]


def test_keeping_alive_begins_the_response_and_then_repeats_that_it_is_in_progress() -> None:
    translation = streaming()

    first, second = translation.keep_alive("loading\n40 %"), translation.keep_alive("loading 80 %")
    rest = translation.feed(RICH) + translation.end()

    assert first.startswith(b": loading 40 %\n\nevent: response.created\n")
    assert second.startswith(b": loading 80 %\n\nevent: response.in_progress\n")
    assert types(events(first + second + rest))[:4] == ["created", "in_progress", "in_progress", "output_item.added"]


def test_keeping_alive_amid_an_answer_leaves_no_gap() -> None:
    translation = streaming()

    found = events(translation.feed(chunk(content="a")) + translation.keep_alive("x") + translation.feed(ended()))

    assert types(found)[-1] == "in_progress"


@pytest.mark.parametrize(("reason", "cause"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(reason: str, cause: str) -> None:
    found = collected(chunk(reasoning_content="hm"), chunk(content="half a sen"), ended(reason))

    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": cause}
    assert [item["status"] for item in output(found)] == ["completed", "incomplete"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContextLengthExceeded(900, 512), "context_length_exceeded"),
        (Overloaded("the queue is full"), "rate_limit_exceeded"),
        (EngineFailed("the engine died"), "server_error"),
        (UpstreamFailed("the node is gone"), "server_error"),
    ],
)
def test_an_error_of_the_hub_fails_the_response(error: CortexError, code: str) -> None:
    translation = streaming()

    stream = translation.feed(chunk(content="half") + openai_event(error) + RICH)
    after = translation.feed(RICH) + translation.end() + translation.fail(error) + translation.keep_alive("x")

    last = events(stream)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": code, "message": error.message}
    assert [item["status"] for item in last["response"]["output"]] == ["incomplete"]
    assert after == b""


def test_a_failure_told_from_outside_is_the_same() -> None:
    inside, outside = streaming(), streaming()
    error = EngineFailed("the engine died")
    cut = RICH.removesuffix(DONE)

    assert inside.feed(cut + openai_event(error)) == outside.feed(cut) + outside.fail(error)


def test_a_failure_before_anything_was_told_still_begins_with_created() -> None:
    assert types(events(streaming().fail(EngineFailed("x")))) == ["created", "failed"]


def test_a_cut_stream_never_looks_like_success() -> None:
    """However far it came: only one that said why it finished is whole."""
    finish = RICH.index(b'"finish_reason": "tool_calls"')

    for border in range(0, finish, 7):
        assert types(told(streaming(), RICH[:border]))[-1] == "failed"


@pytest.mark.parametrize("piece", [b"data: {\n\n", b"data: 3\n\n", b'data: {"choices": 1}\n\n', b"data: \xff\n\n"])
def test_an_unreadable_piece_fails_the_response(piece: bytes) -> None:
    found = collected(chunk(content="a"), piece, RICH)

    assert types(found)[-1] == "failed"
    assert found[-1]["response"]["error"]["code"] == "server_error"


def test_an_event_without_end_fails_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.wire.hub_stream.MAX_HELD_BYTES", 100)

    assert types(collected(b"data: " + b"x" * 100))[-1] == "failed"


def test_nothing_follows_the_end() -> None:
    translation = streaming()
    told(translation, RICH)

    assert translation.end() + translation.feed(RICH) + translation.fail(EngineFailed("x")) == b""


def test_line_breaks_in_the_request_break_no_event() -> None:
    body = {"model": "m", "input": "hi", "text": {"format": {"type": "text"}}, "tools": TOOLS, "metadata": {"a": "b"}}
    pretty = json.dumps(
        {**body, "reasoning": {"effort": "low"}, "tool_choice": {"type": "function", "name": "f"}}, indent=2
    )

    translation = read_responses(pretty.encode(), response_id="resp_1", created_at=5)

    assert types(told(translation, RICH))[-1] == "completed"


def test_what_was_left_out_is_warned_of_in_the_answer() -> None:
    found = collected(RICH, tools=[{"type": "web_search"}, {"type": "function", "name": "f"}])

    assert found[0]["response"]["warnings"] == ["tools.web_search: ignored, not offered here"]
    assert [tool["type"] for tool in found[-1]["response"]["tools"]] == ["function"]


# whole ---------------------------------------------------------------------------------------------------------------


def unary(message: Value, reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, "logprobs": None}
    usage_object = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage_object}).encode()


def whole(message: Value, reason: str = "stop", **fields: Any) -> Value:
    return check_response(json.loads(read(**fields).whole(unary(message, reason))))


pieces = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4)
made_calls = st.lists(st.tuples(st.sampled_from(["f", "patch", "ns__g", "unknown"]), pieces), max_size=3)


@settings(deadline=None)
@given(pieces, pieces, made_calls, st.sampled_from(["stop", "length", "tool_calls", "content_filter"]), st.booleans())
def test_a_whole_answer_is_the_collected_stream(
    thought: list[str], text: list[str], made: list[tuple[str, list[str]]], reason: str, summary: bool
) -> None:
    fields = {
        "tools": TOOLS,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto" if summary else None},
    }
    stream = [*(chunk(reasoning_content=each) for each in thought), *(chunk(content=each) for each in text)]
    for index, (name, arguments) in enumerate(made):
        stream.append(calls(call(index, "", name, f"c{index}")))
        stream += [calls(call(index, each)) for each in arguments]
    message = {
        "content": "".join(text) or None,
        "reasoning_content": "".join(thought) or None,
        "tool_calls": [
            {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
            for index, (name, arguments) in enumerate(made)
        ],
    }

    found = collected(*stream, ended(reason), **fields)

    assert output(found) == whole(message, reason, **fields)["output"]
    assert found[-1]["response"] == whole(message, reason, **fields)


def test_an_answer_that_is_none_is_the_nodes_fault() -> None:
    with pytest.raises(UpstreamFailed):
        read().whole(b"<html>")


# stored --------------------------------------------------------------------------------------------------------------


def test_a_response_is_stored_once_it_is_finished() -> None:
    translation = streaming()

    assert translation.stored() is None
    found = told(translation, RICH)
    stored = translation.stored()

    assert stored is not None
    kept = decode_stored(encode_stored(stored))
    assert (kept.id, kept.created_at, kept.model) == ("resp_1", 5, "m")
    assert json.loads(bytes(kept.response)) == found[-1]["response"]
    assert [json.loads(bytes(item)) for item in kept.output] == output(found)
    assert [json.loads(bytes(item))["role"] for item in kept.input] == ["user"]


def test_a_failed_response_is_stored_as_failed() -> None:
    translation = streaming()
    translation.fail(EngineFailed("x"))

    stored = translation.stored()

    assert stored is not None
    assert json.loads(bytes(stored.response))["status"] == "failed"


@pytest.mark.parametrize("reasoning", [{"summary": "auto"}, {}])
@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]])
def test_a_stored_response_is_gone_on_from(reasoning: Value, include: list[str]) -> None:
    """The next request's chat has the answer as the model gave it, and asks no other response."""
    first = streaming(input="first", reasoning=reasoning, include=include, instructions="be terse")
    told(first, RICH)
    stored = first.stored()
    assert stored is not None
    outputs = [
        {"type": "function_call_output", "call_id": "call_b", "output": "b"},
        {"type": "function_call_output", "call_id": "call_a", "output": "a"},
    ]

    items = [json.loads(bytes(item)) for item in stored.items]
    chat = json.loads(read(previous=items, previous_response_id="resp_1", input=outputs).body)["messages"]

    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "tool"]
    assert chat[1]["reasoning_content"] == "Let me see…"
    assert chat[1]["content"] == "Größe: 日本\n\n語"
    assert [each["id"] for each in chat[1]["tool_calls"]] == ["call_a", "call_b"]
    assert [message["content"] for message in chat[2:]] == ["a", "b"]


# real clients --------------------------------------------------------------------------------------------------------


def sdk(stream: bytes) -> OpenAI:
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    return OpenAI(
        api_key="k",
        base_url="http://test/v1",
        http_client=httpx2.Client(transport=httpx2.MockTransport(lambda _: answer)),
    )


def test_the_sdk_collects_the_stream_into_the_same_response() -> None:
    translation = streaming()
    stream = translation.keep_alive("loading") + translation.feed(RICH) + translation.end()

    with sdk(stream).responses.stream(model="m", input="hi") as events_of_sdk:
        response = events_of_sdk.get_final_response()

    assert response.output_text == "Größe: 日本\n\n語"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]


def test_the_sdk_sees_a_failure() -> None:
    translation = streaming()
    stream = translation.feed(chunk(content="a")) + translation.fail(EngineFailed("the engine died"))

    last = list(sdk(stream).responses.create(model="m", input="hi", stream=True))[-1]

    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the engine died"


def grammar() -> Callable[[Value, bool, bytes], None]:
    """Return the check of the clients' replay, without its program."""
    tree = ast.parse((CLIENTS / "replay.py").read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found: dict[str, Any] = {"json": json}
    exec(compile(tree, "replay.py", "exec"), found)
    check: Callable[[Value, bool, bytes], None] = found["v_resp"]
    return check


@pytest.mark.skipif(not CLIENTS.is_dir(), reason="the recordings of real clients are not beside this checkout")
@pytest.mark.parametrize("client", ["codex", "sdk_openai_py_2x", "sdk_openai_js"])
def test_what_real_clients_sent_is_answered_as_they_need_it(client: str) -> None:
    check = grammar()
    recorded = json.loads((CLIENTS / "recordings" / f"{client}.json").read_text())
    bodies = [each["body"] for each in recorded if each["path"] == "/v1/responses"]

    assert bodies
    for body in bodies:
        translation = read(**body)
        if body.get("stream"):
            stream = translation.keep_alive("x") + translation.feed(RICH) + translation.end()
            check(body, True, stream)
            assert types(events(stream))[-1] == "completed"
        else:
            answer = translation.whole(unary({"content": "hi"}))
            check(body, False, answer)
            check_response(json.loads(answer))


@pytest.mark.skipif(not CLIENTS.is_dir(), reason="the recordings of real clients are not beside this checkout")
def test_what_codex_sends_reaches_the_hub_whole() -> None:
    recorded = json.loads((CLIENTS / "recordings" / "codex.json").read_text())

    translation = read(**recorded[-1]["body"])

    hub = hub_body(**recorded[-1]["body"])
    assert [message["role"] for message in hub["messages"]] == ["system", "user", "user", "assistant", "tool"]
    assert "multi_agent_v1__spawn_agent" in [tool["function"]["name"] for tool in hub["tools"]]
    assert translation.ignored == ("client_metadata", "tools.web_search")
    assert not translation.store
