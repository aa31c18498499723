from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import UpstreamFailed
from cortex.wire.anthropic import Messages, read_messages
from cortex.wire.sse import KEEP_ALIVE, data_event
from cortex.wire.translation import Opening, opening_comment
from wire.anthropic.grammar import collected, events_of
from wire.hub import DONE, call, chunk, hub_answer, hub_stream, usage_chunk

ROLE = chunk({"role": "assistant", "content": ""})
STOP, LENGTH, CALLS = chunk({}, "stop"), chunk({}, "length"), chunk({}, "tool_calls")


def say(text: str) -> bytes:
    return chunk({"content": text})


def think(text: str) -> bytes:
    return chunk({"reasoning_content": text})


def use(index: int, arguments: str = "", name: str | None = None) -> bytes:
    return chunk(call(index, arguments, name))


def translation(**fields: Any) -> Messages:
    asked = {
        "model": "asked",
        "max_tokens": 9,
        "stream": True,
        "thinking": {"type": "adaptive"},
        "messages": [{"role": "user", "content": "hi"}],
    }
    return read_messages(json.dumps({**asked, **fields}).encode())


def translated(raw: bytes, **fields: Any) -> bytes:
    subject = translation(**fields)
    return subject.feed(raw) + subject.end()


def shape(message: dict[str, Any]) -> list[Any]:
    """The blocks of *message* in short."""
    short = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name", "input")}
    return [tuple(block[key] for key in ("type", *short[block["type"]])) for block in message["content"]]


# name: (chunks, blocks, stop_reason)
ANSWERS: dict[str, tuple[list[bytes], list[Any], str]] = {
    "text": ([ROLE, say("Hel"), say("lo"), STOP], [("text", "Hello")], "end_turn"),
    "nothing": ([ROLE, STOP], [], "end_turn"),
    "empty deltas": ([ROLE, say(""), think(""), chunk(), say("a"), say(""), STOP], [("text", "a")], "end_turn"),
    "the end with the last piece": ([chunk({"content": "a"}, "stop")], [("text", "a")], "end_turn"),
    "cut at max_tokens": ([ROLE, say("a"), LENGTH], [("text", "a")], "max_tokens"),
    "a refusal": ([ROLE, say("a"), chunk({}, "content_filter")], [("text", "a")], "refusal"),
    "thinking, then text": (
        [ROLE, think("let "), think("me"), say("A"), STOP],
        [("thinking", "let me"), ("text", "A")],
        "end_turn",
    ),
    "thinking and text in turns": (
        [think("a"), say("b"), think("c"), say("d"), STOP],
        [("thinking", "a"), ("text", "b"), ("thinking", "c"), ("text", "d")],
        "end_turn",
    ),
    "both in one delta": (
        [chunk({"reasoning_content": "a", "content": "b", **call(0, "{}", "f")}), CALLS],
        [("thinking", "a"), ("text", "b"), ("tool_use", "call_f", "f", {})],
        "tool_use",
    ),
    "a call in pieces": (
        [ROLE, use(0, "", "f"), use(0, '{"a"'), use(0, ': "{}"}'), CALLS],
        [("tool_use", "call_f", "f", {"a": "{}"})],
        "tool_use",
    ),
    "a call without arguments": ([use(0, "", "f"), CALLS], [("tool_use", "call_f", "f", {})], "tool_use"),
    "calls without an index": (
        [chunk({"tool_calls": [{"id": f"call_{name}", "function": {"name": name}} for name in "fg"]}), CALLS],
        [("tool_use", "call_f", "f", {}), ("tool_use", "call_g", "g", {})],
        "tool_use",
    ),
    "a call that ends as a stop": ([use(0, "{}", "f"), STOP], [("tool_use", "call_f", "f", {})], "tool_use"),
    "a call that was cut": ([use(0, '{"a": "b', "f"), LENGTH], [("tool_use", "call_f", "f", {})], "max_tokens"),
    "calls that are none": ([say("a"), CALLS], [("text", "a")], "end_turn"),
    "text, then calls one after the other": (
        [say("a"), use(0, '{"x":', "f"), use(0, "1}"), use(1, "", "g"), use(1, "{}"), CALLS],
        [("text", "a"), ("tool_use", "call_f", "f", {"x": 1}), ("tool_use", "call_g", "g", {})],
        "tool_use",
    ),
    "calls whose pieces interleave": (
        [
            use(0, "", "f"),
            use(1, "", "g"),
            use(0, '{"x"'),
            use(1, '{"y"'),
            use(0, ":1}"),
            use(1, ":2}"),
            CALLS,
        ],
        [("tool_use", "call_f", "f", {"x": 1}), ("tool_use", "call_g", "g", {"y": 2})],
        "tool_use",
    ),
    "three calls that begin before any ends": (
        [use(0, "{", "f"), use(1, "{", "g"), use(2, "{", "h"), use(2, "}"), use(1, "}"), use(0, "}"), CALLS],
        [("tool_use", f"call_{name}", name, {}) for name in "fgh"],
        "tool_use",
    ),
    "an index that jumps": (
        [use(3, "{}", "f"), use(7, "{}", "g"), CALLS],
        [("tool_use", "call_f", "f", {}), ("tool_use", "call_g", "g", {})],
        "tool_use",
    ),
    "text and thinking inside a call": (
        [use(0, "{", "f"), say("a"), say("b"), think("c"), say("d"), use(0, "}"), say("e"), CALLS],
        [("tool_use", "call_f", "f", {}), ("text", "ab"), ("thinking", "c"), ("text", "de")],
        "tool_use",
    ),
    "a name after the arguments": (
        [use(0, '{"a":'), use(0, "1}", "f"), CALLS],
        [("tool_use", "call_f", "f", {"a": 1})],
        "tool_use",
    ),
    "a call that never gets a name": ([say("a"), use(0, "{}"), CALLS], [("text", "a")], "end_turn"),
    "white space after a call is over": (
        [use(0, "{}", "f"), use(1, "{}", "g"), use(0, "\n"), CALLS],
        [("tool_use", "call_f", "f", {}), ("tool_use", "call_g", "g", {})],
        "tool_use",
    ),
    "other choices are not looked at": (
        [ROLE, say("a"), chunk({"content": "b"}, "length", index=1), STOP],
        [("text", "a")],
        "end_turn",
    ),
}
ALL_ANSWERS = pytest.mark.parametrize(("chunks", "blocks", "reason"), ANSWERS.values(), ids=ANSWERS)

RICH = (
    opening_comment(Opening(12, 4))
    + KEEP_ALIVE
    + hub_stream(
        ROLE,
        think("日本 ✓"),
        say("é\n\n: cortex-start {}\n"),
        use(0, '{"a": "\\u00e9', "f"),
        use(1, "{", "g"),
        use(0, '"}'),
        use(1, "}"),
        CALLS,
    )
)


@ALL_ANSWERS
def test_an_answer_becomes_well_formed_blocks(chunks: list[bytes], blocks: list[Any], reason: str) -> None:
    message = collected(translated(hub_stream(*chunks)))

    assert shape(message) == blocks
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, None)


def test_a_stream_may_be_cut_at_any_byte() -> None:
    whole = translated(RICH)
    for border in range(1, len(RICH)):
        subject = translation()

        assert subject.feed(RICH[:border]) + subject.feed(RICH[border:]) + subject.end() == whole


def test_a_stream_may_come_byte_by_byte() -> None:
    subject = translation()

    assert b"".join(subject.feed(bytes([each])) for each in RICH) == translated(RICH)


def test_pieces_go_out_as_they_come() -> None:
    """Nothing is held back that the order does not hold back."""
    subject = translation()
    subject.feed(data_event(ROLE))
    for piece, kind in (
        (think("a"), "thinking_delta"),
        (say("b"), "text_delta"),
        (use(0, "{", "f"), "input_json_delta"),
    ):
        out = events_of(subject.feed(data_event(piece)))

        assert out[-1]["delta"]["type"] == kind


def test_a_second_call_begins_as_soon_as_the_first_is_complete() -> None:
    subject = translation()
    subject.feed(data_event(use(0, '{"a":', "f")) + data_event(use(1, '{"b":', "g")))

    out = events_of(subject.feed(data_event(use(0, "1}"))))

    assert [event["type"] for event in out] == [
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]


def test_the_opening_tells_the_prompts_tokens_without_those_from_the_cache() -> None:
    first = events_of(translated(opening_comment(Opening(100, 30)) + hub_stream(ROLE, STOP)))[0]

    assert first["message"]["usage"] == {
        "input_tokens": 70,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 30,
        "output_tokens": 0,
    }


def test_what_is_said_between_the_opening_and_the_answer_does_not_hide_it() -> None:
    first = events_of(translated(opening_comment(Opening(100)) + KEEP_ALIVE + hub_stream(ROLE, STOP)))[0]

    assert first["message"]["usage"]["input_tokens"] == 100


def test_an_opening_alone_starts_no_message() -> None:
    assert translation().feed(opening_comment(Opening(100, 30))) == b""


def test_without_an_opening_the_last_usage_corrects_the_first() -> None:
    events = events_of(translated(hub_stream(ROLE, STOP)))

    assert events[0]["message"]["usage"]["input_tokens"] == 0
    assert events[-2]["usage"] == {
        "input_tokens": 8,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }


def test_the_message_has_the_hubs_id_and_model() -> None:
    message = collected(translated(hub_stream(ROLE, STOP)))

    assert (message["id"], message["model"], message["role"]) == ("msg_1f2e", "served", "assistant")


def test_usage_may_come_before_the_end() -> None:
    raw = data_event(usage_chunk(20, 7, 0)) + data_event(say("a")) + data_event(STOP) + DONE

    assert collected(translated(raw))["usage"]["output_tokens"] == 7


def test_an_engine_that_says_which_stop_matched_is_believed_if_it_was_asked_for() -> None:
    ended = [say("a"), chunk({}, "stop", stop_reason="END")]

    asked = collected(translated(hub_stream(*ended), stop_sequences=["END", "X"]))
    other = collected(translated(hub_stream(*ended), stop_sequences=["X"]))

    assert (asked["stop_reason"], asked["stop_sequence"]) == ("stop_sequence", "END")
    assert (other["stop_reason"], other["stop_sequence"]) == ("end_turn", None)


def test_an_error_of_the_hub_ends_the_stream() -> None:
    envelope = {"error": {"message": "died", "type": "server_error", "code": "engine_failed", "param": None}}
    subject = translation()
    raw = data_event(ROLE) + data_event(say("a")) + data_event(json.dumps(envelope).encode())

    out = events_of(subject.feed(raw + data_event(say("b")) + DONE))

    assert out[-1] == {"type": "error", "error": {"type": "api_error", "message": "died"}}
    assert "message_stop" not in [event["type"] for event in out]
    assert subject.end() + subject.fail(UpstreamFailed("late")) + subject.keep_alive("on") == b""
    assert subject.feed(data_event(say("c"))) == b""


def test_an_error_before_any_chunk_is_the_only_event() -> None:
    envelope = {"error": {"message": "loading", "type": "server_error", "code": "model_not_ready"}}

    assert events_of(translation().feed(data_event(json.dumps(envelope).encode()))) == [
        {"type": "error", "error": {"type": "overloaded_error", "message": "loading"}}
    ]


def test_a_stream_that_was_cut_never_looks_like_a_success() -> None:
    terminated = RICH.index(DONE) + len(b"data: [DONE]\n")
    for cut in range(terminated):
        subject = translation()
        out = subject.feed(RICH[:cut]) + subject.fail(UpstreamFailed("the node broke the connection"))

        kinds = [event["type"] for event in events_of(out)]
        assert kinds[-1] == "error"
        assert not {"message_delta", "message_stop"} & set(kinds)


@pytest.mark.parametrize("tail", [b"", DONE])
def test_a_stream_that_never_says_why_it_ended_has_failed(tail: bytes) -> None:
    out = events_of(translated(data_event(say("a")) + tail))

    assert out[-1]["type"] == "error"


@pytest.mark.parametrize("junk", [b"{", b'{"choices":[{"index":"a"}]}', b"\xff", b"[]", b"[" * 5000])
def test_a_chunk_that_cannot_be_read_fails_the_stream(junk: bytes) -> None:
    out = events_of(translated(data_event(say("a")) + data_event(junk) + hub_stream(STOP)))

    assert out[-1]["error"]["type"] == "api_error"


def test_an_opening_that_cannot_be_read_fails_the_stream() -> None:
    assert events_of(translated(b": cortex-start {\n\n" + hub_stream(STOP)))[-1]["type"] == "error"


def test_closing_twice_gives_nothing_more() -> None:
    subject = translation()
    subject.feed(hub_stream(ROLE, STOP))

    assert subject.end() + subject.end() + subject.fail(UpstreamFailed("late")) == b""


def test_a_stream_without_its_terminator_is_closed_by_end() -> None:
    subject = translation()
    out = subject.feed(data_event(say("a")) + data_event(STOP) + data_event(usage_chunk()))

    assert collected(out + subject.end())["stop_reason"] == "end_turn"


def test_a_silence_is_filled_with_pings() -> None:
    subject = translation()
    raw = subject.keep_alive("loading\n40%") + subject.feed(hub_stream(say("a"), STOP)) + subject.keep_alive("")

    assert events_of(raw)[0] == {"type": "ping"}
    assert raw.startswith(b": loading 40%\n\n")
    assert shape(collected(raw)) == [("text", "a")]


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_thinking_that_was_not_asked_for_is_not_shown(thinking: dict[str, str] | None) -> None:
    """A client that reads `content[0].text` finds its text."""
    chunks = [think("a"), say("b"), think("c"), say("d"), STOP]

    assert shape(collected(translated(hub_stream(*chunks), thinking=thinking))) == [("text", "bd")]


def test_thinking_that_is_omitted_is_a_signature_without_text() -> None:
    raw = translated(hub_stream(think("secret"), say("a"), STOP), thinking={"type": "adaptive", "display": "omitted"})

    assert b"thinking_delta" not in raw
    assert b"secret" not in raw
    assert collected(raw)["content"][0]["signature"]


# What an engine may say, in the order in which a unary answer has it: thinking, text, calls.
TEXTS = st.lists(st.text(max_size=6), max_size=4)
OBJECTS = st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=4)), max_size=3)


@st.composite
def plain_answers(draw: st.DrawFn) -> list[bytes]:
    chunks = [ROLE, *map(think, draw(TEXTS)), *map(say, draw(TEXTS))]
    for index, value in enumerate(draw(st.lists(OBJECTS, max_size=3))):
        text = json.dumps(value)
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        chunks += [use(index, "", f"f{index}"), *(use(index, piece) for piece in pieces)]
    return [*chunks, draw(st.sampled_from([STOP, LENGTH, CALLS]))]


DISPLAYS = st.sampled_from(
    [None, {"type": "disabled"}, {"type": "enabled"}, {"type": "adaptive", "display": "omitted"}]
)


@given(chunks=plain_answers(), thinking=DISPLAYS)
def test_the_whole_answer_is_the_collected_stream(chunks: list[bytes], thinking: Any) -> None:
    subject = translation(thinking=thinking)

    assert json.loads(subject.whole(hub_answer(*chunks))) == collected(
        translated(hub_stream(*chunks), thinking=thinking)
    )


def normal(message: dict[str, Any]) -> tuple[str, str, list[Any]]:
    """What *message* says, whatever the order of its blocks."""
    blocks = message["content"]
    return (
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        sorted((block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"),
    )


@st.composite
def wild_answers(draw: st.DrawFn) -> list[bytes]:
    """Pieces of thinking, text and up to three calls, each in its own order and all of them mixed."""
    calls: dict[int, list[bytes]] = {}
    for index in range(draw(st.integers(0, 3))):
        text = json.dumps(draw(OBJECTS))
        at = draw(st.integers(0, len(text)))
        calls[index] = [use(index, "", f"f{index}"), use(index, text[:at]), use(index, text[at:])]
    queues = [list(map(think, draw(TEXTS))), list(map(say, draw(TEXTS))), *calls.values()]
    order = draw(st.permutations([at for at, queue in enumerate(queues) for _ in queue]))
    return [ROLE, *(queues[at].pop(0) for at in order), STOP]


@settings(max_examples=200)
@given(chunks=wild_answers(), borders=st.lists(st.integers(0, 3000), max_size=6))
def test_nothing_is_lost_however_pieces_are_mixed_and_cut(chunks: list[bytes], borders: list[int]) -> None:
    raw, subject = hub_stream(*chunks), translation()
    cuts = sorted(min(border, len(raw)) for border in borders)
    out = b"".join(subject.feed(raw[a:b]) for a, b in pairwise([0, *cuts, len(raw)]))

    streamed = collected(out)

    whole = json.loads(subject.whole(hub_answer(*chunks)))
    assert normal(streamed) == normal(whole)
    assert (streamed["stop_reason"], streamed["usage"]) == (whole["stop_reason"], whole["usage"])
