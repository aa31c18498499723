from __future__ import annotations

import json
from itertools import chain, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import UpstreamFailed
from cortex.engines.simulated_answer import answer_chat
from cortex.wire.engine_api import EngineSpec, Timings
from cortex.wire.errors import openai_event
from cortex.wire.ollama import OllamaTranslation
from cortex.wire.openai import read_request
from cortex.wire.sse import KEEP_ALIVE, data_event
from cortex.wire.translation import Opening, Translation, opening_comment
from wire.hub import DONE, HEAD, call, chunk, hub_answer, hub_stream, usage_chunk
from wire.ollama.client import CREATED, chat, collected, generate, hub_body, lines_of, spoken

ROLE = chunk({"role": "assistant", "content": ""})
STOP, LENGTH, CALLS = chunk({}, "stop"), chunk({}, "length"), chunk({}, "tool_calls")
TIMINGS = Timings(queue_ms=1.0, prefill_ms=20.0, decode_ms=300.0)
SPOKEN: dict[Any, dict[str, Any]] = {
    chat: {"message": {"role": "assistant", "content": "a"}},
    generate: {"response": "a"},
}
BOTH = pytest.mark.parametrize("read", [chat, generate])


def say(text: str) -> bytes:
    return chunk({"content": text})


def think(text: str) -> bytes:
    return chunk({"reasoning_content": text})


def use(index: int, arguments: str = "", name: str | None = None) -> bytes:
    return chunk(call(index, arguments, name))


def translated(raw: bytes, **fields: Any) -> bytes:
    subject = chat(**fields)
    return subject.feed(raw) + subject.end()


# name: (chunks, (text, thinking, calls), done_reason)
ANSWERS: dict[str, tuple[list[bytes], tuple[str, str, list[Any]], str]] = {
    "text": ([ROLE, say("Hel"), say("lo"), STOP], ("Hello", "", []), "stop"),
    "nothing": ([ROLE, STOP], ("", "", []), "stop"),
    "empty deltas": ([ROLE, say(""), think(""), chunk(), say("a"), STOP], ("a", "", []), "stop"),
    "the end with the last piece": ([chunk({"content": "a"}, "stop")], ("a", "", []), "stop"),
    "cut at num_predict": ([ROLE, say("a"), LENGTH], ("a", "", []), "length"),
    "a filter": ([ROLE, say("a"), chunk({}, "content_filter")], ("a", "", []), "content_filter"),
    "thinking and text in turns": ([think("a"), say("b"), think("c"), say("d"), STOP], ("bd", "ac", []), "stop"),
    "all in one delta": (
        [chunk({"reasoning_content": "a", "content": "b", **call(0, "{}", "f")}), CALLS],
        ("b", "a", [("call_f", "f", {})]),
        "stop",
    ),
    "a call in pieces": (
        [ROLE, use(0, "", "f"), use(0, '{"a"'), use(0, ': "{}"}'), CALLS],
        ("", "", [("call_f", "f", {"a": "{}"})]),
        "stop",
    ),
    "a call without arguments": ([use(0, "", "f"), CALLS], ("", "", [("call_f", "f", {})]), "stop"),
    "a call that was cut": (
        [say("a "), use(0, '{"a": "b', "f"), LENGTH],
        ('a {"name": "f", "arguments": {"a": "b}', "", []),
        "length",
    ),
    "a call of no object, beside one that is": (
        [use(0, "3", "f"), use(1, "{}", "g"), CALLS],
        ('{"name": "f", "arguments": 3}', "", [("call_g", "g", {})]),
        "stop",
    ),
    "calls whose pieces interleave": (
        [use(0, "{", "f"), use(1, "{", "g"), say("a"), use(1, "}"), use(0, "}"), CALLS],
        ("a", "", [("call_f", "f", {}), ("call_g", "g", {})]),
        "stop",
    ),
    "an index that jumps": ([use(3, "{}", "f"), CALLS], ("", "", [("call_f", "f", {})]), "stop"),
    "a call that never gets a name": ([use(0, "{}"), CALLS], ('{"name": "", "arguments": {}}', "", []), "stop"),
    "other choices": ([say("a"), chunk({"content": "b"}, "length", index=1), STOP], ("a", "", []), "stop"),
}
ALL_ANSWERS = pytest.mark.parametrize(("chunks", "said", "reason"), ANSWERS.values(), ids=ANSWERS)

RICH_CHUNKS = [
    ROLE,
    think("日本 ✓"),
    say("é\n\n: cortex-start {}\n\u2028"),
    use(0, '{"a": "\\u00e9', "f"),
    use(1, "{", "g"),
    use(0, '"}'),
    CALLS,
]
RICH = opening_comment(Opening(12, 4)) + KEEP_ALIVE + hub_stream(*RICH_CHUNKS)


@BOTH
@ALL_ANSWERS
def test_an_answer_is_told_whole_and_in_lines(read: Any, chunks: list[bytes], said: Any, reason: str) -> None:
    subject: OllamaTranslation = read()
    answer = collected(subject.feed(hub_stream(*chunks)) + subject.end())

    assert spoken(answer) == said
    assert (answer["done_reason"], answer["model"], answer["created_at"]) == (reason, "asked", CREATED)
    assert answer == json.loads(read(stream=False).whole(hub_answer(*chunks)))


def test_a_stream_may_be_cut_at_any_byte() -> None:
    whole = translated(RICH)
    for border in range(1, len(RICH)):
        subject = chat()

        assert subject.feed(RICH[:border]) + subject.feed(RICH[border:]) + subject.end() == whole


def test_a_stream_may_come_byte_by_byte() -> None:
    subject = chat()

    assert b"".join(subject.feed(bytes([each])) for each in RICH) + subject.end() == translated(RICH)


@pytest.mark.parametrize("piece", [think("a"), say("b")])
def test_pieces_go_out_as_they_come(piece: bytes) -> None:
    subject = chat()
    subject.feed(data_event(ROLE))

    assert len(lines_of(subject.feed(data_event(piece)))) == 1


def test_calls_go_out_whole_in_a_line_before_the_last() -> None:
    *_, line, last = lines_of(translated(hub_stream(say("a"), use(0, "{}", "f"), use(1, "{}", "g"), CALLS)))

    assert [each["function"]["name"] for each in line["message"]["tool_calls"]] == ["f", "g"]
    assert (line["done"], last["message"]) == (False, {"role": "assistant", "content": ""})


@BOTH
def test_the_last_line_has_counts_and_times(read: Any) -> None:
    streamed, whole = read(), read(stream=False)
    out = streamed.feed(hub_stream(say("a"), STOP))
    for subject in (streamed, whole):
        subject.note_timings(TIMINGS, load_ms=4000.0)

    last = lines_of(out + streamed.end())[-1]

    assert last["total_duration"] == 4_321_000_000
    assert (last["prompt_eval_count"], last["prompt_eval_duration"]) == (12, 20_000_000)
    assert (last["eval_count"], last["eval_duration"]) == (5, 300_000_000)
    assert last["load_duration"] == 4_000_000_000
    assert json.loads(whole.whole(hub_answer(say("a"), STOP))) == {**last, **SPOKEN[read]}


def test_the_last_line_waits_for_what_the_caller_knows() -> None:
    """The trailer comes with `[DONE]`, or after it."""
    subject = chat()

    assert not any(line["done"] for line in lines_of(subject.feed(hub_stream(say("a"), STOP))))
    assert lines_of(subject.end())[-1]["done"]


def test_usage_may_come_before_the_end() -> None:
    raw = data_event(usage_chunk(20, 7, 0)) + data_event(say("a")) + data_event(STOP) + DONE

    assert collected(translated(raw))["eval_count"] == 7


@pytest.mark.parametrize("streams", [True, False])
def test_thinking_is_not_shown_to_who_wants_none(streams: bool) -> None:
    subject = chat(think=False, stream=streams)
    chunks = [think("a"), say("b"), STOP]
    raw = subject.feed(hub_stream(*chunks)) + subject.end() if streams else subject.whole(hub_answer(*chunks))

    assert spoken(collected(raw)) == ("b", "", [])


def test_a_raw_generation_reads_a_completion() -> None:
    chunks = [json.dumps({**HEAD, "choices": [{"index": 0, "text": text}]}).encode() for text in ("a", "", "b")]
    ended = json.dumps({**HEAD, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}).encode()
    whole = json.dumps({"choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}]}).encode()
    subject = generate(raw=True)

    streamed = collected(subject.feed(hub_stream(*chunks, ended)) + subject.end())

    assert (streamed["response"], streamed["done_reason"]) == ("ab", "stop")
    assert json.loads(generate(raw=True).whole(whole))["response"] == "ab"


def test_an_error_of_the_hub_is_the_last_line() -> None:
    subject = chat()
    out = subject.feed(data_event(say("a")) + openai_event(UpstreamFailed("died\u2028")) + data_event(say("b")) + DONE)

    assert lines_of(out)[-1] == {"error": "died\u2028"}
    assert not any(line.get("done") for line in lines_of(out))
    assert subject.end() + subject.fail(UpstreamFailed("late")) + subject.keep_alive("on") == b""
    assert subject.feed(data_event(say("c"))) == b""


def test_a_failure_told_from_outside_is_the_same() -> None:
    inside, outside, error = chat(), chat(), UpstreamFailed("died")

    assert inside.feed(openai_event(error)) == outside.fail(error) == b'{"error":"died"}\n'


def test_a_stream_that_was_cut_never_looks_like_a_success() -> None:
    for cut in range(len(RICH)):
        subject = chat()
        lines = lines_of(subject.feed(RICH[:cut]) + subject.fail(UpstreamFailed("the node broke the connection")))

        assert lines[-1] == {"error": "the node broke the connection"}
        assert not any(line.get("done") or "tool_calls" in line.get("message", {}) for line in lines)


@pytest.mark.parametrize("tail", [b"", DONE])
def test_a_stream_that_never_says_why_it_ended_has_failed(tail: bytes) -> None:
    assert lines_of(translated(data_event(say("a")) + tail))[-1].keys() == {"error"}


@pytest.mark.parametrize("junk", [b"{", b'{"choices":[{"index":"a"}]}', b"\xff", b"[]", b"[" * 5000])
def test_a_chunk_that_cannot_be_read_fails_the_stream(junk: bytes) -> None:
    lines = lines_of(translated(data_event(say("a")) + data_event(junk) + hub_stream(STOP)))

    assert [list(line)[-1] for line in lines] == ["done", "error"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"\xff",
        b'{"choices":[]}',
        b'{"choices":[{"message":{"content":"a"}}]}',
        b'{"choices":[{"finish_reason":"stop"}]}',
        b'{"error":{"message":"x"}}',
    ],
)
def test_an_answer_that_cannot_be_read_is_the_nodes_fault(answer: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        chat(stream=False).whole(answer)


def test_closing_twice_gives_nothing_more() -> None:
    subject = chat()
    subject.feed(hub_stream(ROLE, STOP))

    assert subject.end()
    assert subject.end() + subject.fail(UpstreamFailed("late")) + subject.keep_alive("") == b""


@BOTH
@pytest.mark.parametrize("text", ["loading\n40%", ""])
def test_a_silence_is_filled_with_pieces_of_nothing(read: Any, text: str) -> None:
    subject = read()
    silence = subject.keep_alive(text)
    (line,) = lines_of(silence)

    assert spoken(line) == ("", "", [])
    assert line["done"] is False
    assert spoken(collected(silence + subject.feed(hub_stream(say("a"), STOP)) + subject.end()))[0] == "a"


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_request_of_nothing_is_answered_once_the_model_is_there(reason: Any) -> None:
    subject = chat(messages=[], model="m:latest")

    assert lines_of(subject.loaded(reason)) == [
        {
            "model": "m:latest",
            "created_at": CREATED,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": reason,
        }
    ]
    assert lines_of(generate(prompt="").loaded())[0]["response"] == ""
    assert subject.keep_alive("") == b""


@BOTH
def test_a_translation_fits_the_seam(read: Any) -> None:
    subject: Translation = read(x=1)

    assert (subject.model, subject.stream, subject.ignored) == ("asked", True, ("x",))


def test_a_simulated_model_answers_as_ollama_does() -> None:
    """Nothing between is made up: the hub reads the request, an engine's own chunks are its answer."""
    tools = [{"function": {"name": name, "parameters": {"type": "object", "required": ["a"]}}} for name in "fg"]
    messages = [{"role": "user", "content": "#think #tools 2"}]
    subject = chat(messages=messages, tools=tools, options={"num_predict": 500})
    spec = EngineSpec(model="m", engine="simulated", path="", devices=())
    answer = answer_chat(read_request("chat", subject.body).body, spec, 4096, 1)

    told = collected(subject.feed(hub_stream(*answer.opening, *chain.from_iterable(answer.steps))) + subject.end())

    _, thinking, calls = spoken(told)
    assert thinking
    assert [name for _, name, _ in calls] == ["f", "g"]


TEXTS = st.lists(st.text(max_size=6), max_size=4)
ARGUMENTS = st.one_of(
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=4)), max_size=3).map(json.dumps),
    st.text(max_size=6),
)


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """Pieces of thinking, text and up to three calls, good and bad, each in its own order and all of them mixed."""
    calls: dict[int, list[bytes]] = {}
    for index in range(draw(st.integers(0, 3))):
        text = draw(ARGUMENTS)
        at = draw(st.integers(0, len(text)))
        calls[index] = [use(index, "", f"f{index}"), use(index, text[:at]), use(index, text[at:])]
    queues = [list(map(think, draw(TEXTS))), list(map(say, draw(TEXTS))), *calls.values()]
    order = draw(st.permutations([at for at, queue in enumerate(queues) for _ in queue]))
    return [ROLE, *(queues[at].pop(0) for at in order), draw(st.sampled_from([STOP, LENGTH, CALLS]))]


@settings(max_examples=200)
@given(
    chunks=answers(),
    borders=st.lists(st.integers(0, 3000), max_size=6),
    read=st.sampled_from([chat, generate]),
    shows=st.booleans(),
)
def test_the_whole_answer_is_the_collected_stream(
    chunks: list[bytes], borders: list[int], read: Any, shows: bool
) -> None:
    raw, subject = hub_stream(*chunks), read(think=shows)
    cuts = sorted(min(border, len(raw)) for border in borders)
    out = b"".join(subject.feed(raw[a:b]) for a, b in pairwise([0, *cuts, len(raw)])) + subject.end()

    assert collected(out) == json.loads(read(think=shows, stream=False).whole(hub_answer(*chunks)))


@given(
    thinking=st.text(max_size=20),
    text=st.text(max_size=20),
    arguments=st.lists(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2), max_size=3),
)
def test_an_answer_that_comes_back_is_what_the_model_said(thinking: str, text: str, arguments: list[Any]) -> None:
    """From the hub to the client and back into the hub's next request."""
    calls = [use(at, json.dumps(value), f"f{at}") for at, value in enumerate(arguments)]
    said = collected(translated(hub_stream(think(thinking), say(text), *calls, STOP)))["message"]
    results = [{"role": "tool", "tool_name": f"f{at}", "content": "r"} for at in reversed(range(len(arguments)))]
    question = {"role": "user", "content": "q"}

    _, message, *more = hub_body(chat(messages=[question, said, *results, question]))["messages"]

    assert (message.get("reasoning_content", ""), message["content"] or "") == (thinking, text)
    assert [
        (each["id"], each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in message.get("tool_calls", [])
    ] == [(f"call_f{at}", f"f{at}", value) for at, value in enumerate(arguments)]
    assert [each["tool_call_id"] for each in more[:-1]] == [f"call_f{at}" for at in reversed(range(len(arguments)))]
