from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.continuation import UNREAD_BYTES, CannotContinue, Joined, Kept, RestDiffers, rest_of
from cortex.wire.engine_api import Usage
from cortex.wire.openai import CHAT, COMPLETION, EMBEDDING

GREEDY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "stream": True}
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any], reason: str | None = None, answer: str = "a", **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    whole = {"id": answer, "object": "chat.completion.chunk", "created": 1 if answer == "a" else 2, "model": "m"}
    return b"data: " + json.dumps({**whole, "choices": [choice], **more}).encode() + b"\n\n"


def said(*pieces: str, answer: str = "a") -> bytes:
    role = chunk({"role": "assistant", "content": ""}, answer=answer)
    return role + b"".join(chunk({"content": piece}, answer=answer) for piece in pieces)


def ended(answer: str = "b", prompt: int = 0, completion: int = 0) -> bytes:
    usage = {"id": answer, "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}
    return chunk({}, "stop", answer) + b"data: " + json.dumps(usage).encode() + b"\n\n" + DONE


def kept(events: bytes) -> Kept:
    found = Kept()
    assert found.take(events) == events
    return found


def body(**changes: Any) -> bytes:
    return json.dumps({**GREEDY, **changes}).encode()


def content_of(events: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in events.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_the_rest_is_asked_for_with_what_was_said_as_an_open_message() -> None:
    rest = rest_of(CHAT, body(temperature=1, max_tokens=10), kept(said("Hel", "lo", " the")))

    asked = json.loads(rest.body)
    assert asked["messages"] == [*GREEDY["messages"], {"role": "assistant", "content": "Hello the"}]
    assert (asked["continue_final_message"], asked["max_tokens"], rest.overlap) == (True, 7, "")


def test_with_greedy_sampling_the_last_word_is_said_again() -> None:
    rest = rest_of(CHAT, body(max_completion_tokens=10), kept(said("Hello", " th", "ere", "\n")))

    asked = json.loads(rest.body)
    assert asked["messages"][-1]["content"] == "Hello"
    assert (asked["max_completion_tokens"], rest.overlap) == (9, " there\n")


def test_when_the_last_word_was_said_differently_the_text_is_taken_as_it_is() -> None:
    rest = rest_of(CHAT, body(), kept(said("Hello", " there")), exact=True)

    assert json.loads(rest.body)["messages"][-1]["content"] == "Hello there"


def test_an_answer_that_the_client_began_is_gone_on_with_in_place() -> None:
    begun = [*GREEDY["messages"], {"role": "assistant", "content": "He"}]

    rest = rest_of(CHAT, body(messages=begun, temperature=1), kept(said("llo")))

    assert json.loads(rest.body)["messages"] == [*GREEDY["messages"], {"role": "assistant", "content": "Hello"}]


def test_a_completion_goes_on_from_its_prompt() -> None:
    text = b'data: {"id":"a","created":1,"model":"m","choices":[{"index":0,"text":" time"}]}\n\n'
    asked = json.dumps({"model": "m", "prompt": "Once upon a", "max_tokens": 5}).encode()

    rest = rest_of(COMPLETION, asked, kept(text))

    assert json.loads(rest.body) == {"model": "m", "prompt": "Once upon a time", "max_tokens": 4}


@pytest.mark.parametrize(
    ("path", "asked", "events", "why"),
    [
        (CHAT, body(n=2), said("a"), "several choices"),
        (CHAT, body(response_format={"type": "json_object"}), said("{"), "schema"),
        (CHAT, body(max_tokens=2), said("a", "b"), "last token"),
        (CHAT, body(), said("a") + chunk({"tool_calls": [{"index": 0}]}), "tool call"),
        (CHAT, body(), chunk({"reasoning_content": "hm"}) + said("a"), "reasoning"),
        (CHAT, body(), said("a") + chunk({}, "stop"), "ended"),
        (CHAT, body(), b"data: not json\n\n", "could not be read"),
        (CHAT, body(), b": keep-alive\n\n", "nothing of it"),
        (CHAT, body(messages=[{"role": "assistant", "content": []}]), said("a"), "not one text"),
        (COMPLETION, b'{"prompt":["a","b"]}', said("a"), "not one text"),
        (COMPLETION, b'{"prompt":"a","echo":true}', said("a"), "not one text"),
        (EMBEDDING, b'{"input":"a"}', said("a"), "no text"),
    ],
)
def test_what_has_no_one_text_is_not_gone_on_with(path: str, asked: bytes, events: bytes, why: str) -> None:
    with pytest.raises(CannotContinue, match=why):
        rest_of(path, asked, kept(events))


def test_an_error_of_the_node_is_kept_back_and_what_came_before_it_is_not() -> None:
    found = Kept()
    error = b'data: {"error":{"message":"it died","code":"engine_failed"}}\n\n'

    assert found.take(said("a") + error) == said("a")
    assert found.error is not None
    assert (str(found.error), found.error.code) == ("it died", "engine_failed")


def test_an_error_alone_leaves_nothing() -> None:
    found = Kept()

    assert found.take(b'data: {"error":{"message":"it died"}}\n\n') == b""


def test_text_that_speaks_of_errors_is_text() -> None:
    events = said('{"error":', '\n\ndata: {"error"')

    assert kept(events).text == '{"error":\n\ndata: {"error"'


def test_a_long_answer_is_read_as_it_comes_so_that_only_its_text_is_kept() -> None:
    found, piece = Kept(), said("word ")
    for _ in range(1000):
        found.take(piece)

    assert found._unread_bytes <= UNREAD_BYTES + len(piece)
    assert (found.text, found.pieces) == ("word " * 1000, 1000)


def test_the_rest_looks_like_more_of_the_same_answer() -> None:
    rest = rest_of(CHAT, body(), kept(said("Hello", " th")))
    joined = Joined(rest)

    events = joined.feed(b": cortex-start {}\n\n" + said(" there", ".", answer="b") + ended(prompt=8, completion=3))

    assert content_of(events) == "ere."
    chunks = [json.loads(line[6:]) for line in events.split(b"\n\n") if line.startswith(b"data: {")]
    assert {(each["id"], each["created"]) for each in chunks} == {("a", 1)}
    assert not any("role" in choice["delta"] for each in chunks for choice in each["choices"])
    assert chunks[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 4}
    assert b"cortex-start" not in events
    assert events.endswith(DONE)


def test_usage_adds_up_to_that_of_the_whole_answer() -> None:
    joined = Joined(rest_of(CHAT, body(temperature=1), kept(said("a", "b", "c"))))

    assert joined.usage(Usage(13, 5, 13)) == Usage(10, 8, 10)


@pytest.mark.parametrize("events", [said(" ta", answer="b"), said(" t", answer="b") + ended()], ids=["other", "ended"])
def test_a_last_word_that_is_said_differently_is_found_out(events: bytes) -> None:
    joined = Joined(rest_of(CHAT, body(), kept(said("Hello", " th"))))

    with pytest.raises(RestDiffers):
        joined.feed(events)


def test_keep_alives_and_errors_pass() -> None:
    joined = Joined(rest_of(CHAT, body(), kept(said("a"))))
    events = b': keep-alive\n\ndata: {"error":{"message":"it died"}}\n\n'

    assert joined.feed(events) == events


WORDS = st.lists(st.sampled_from(["a", " b", "cd", " e", "\n", " ", ",", " fgh", "é", '"']), min_size=1, max_size=30)


@given(WORDS, st.data())
def test_wherever_an_answer_is_cut_the_joined_text_is_the_whole_one(pieces: list[str], data: st.DataObject) -> None:
    """The engine here says the same pieces again from wherever it is asked to."""
    cut = data.draw(st.integers(1, len(pieces)))
    whole, sent = "".join(pieces), said(*pieces[:cut])
    rest = rest_of(CHAT, body(), kept(sent))
    begun = json.loads(rest.body)["messages"][-1]["content"]

    events = Joined(rest).feed(said(*pieces[rest.pieces :], answer="b") + ended())

    assert begun == "".join(pieces[: rest.pieces])
    assert content_of(sent) + content_of(events) == whole
