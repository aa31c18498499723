"""One stream of a draft that may call, and of the answer that is bound to a schema."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.engines.call_or_answer import PREFACE_CHARACTERS, CallOrAnswer, call_or_answer
from cortex.wire.engine_api import Finished, Timings, Usage

FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
FIELDS = {"messages": [], "tools": [TOOL], "response_format": FORMAT}
CALL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}
SECOND_CALL = {"tool_calls": [{"index": 1, "id": "d", "type": "function", "function": {"name": "look"}}]}


def reader(**more: Any) -> CallOrAnswer:
    either = call_or_answer({**FIELDS, **more})
    assert either is not None
    return either


def chunk(delta: dict[str, Any], reason: str | None = None, name: str = "draft") -> dict[str, Any]:
    return {"id": name, "created": 1, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def deltas(either: CallOrAnswer, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    return [told["choices"][0]["delta"] for each in chunks for told in either.translate(each)]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"response_format": {"type": "text"}},
        {"response_format": None},
    ],
)
def test_nothing_is_open_where_the_request_says_which_it_is(more: dict[str, Any]) -> None:
    assert call_or_answer({**FIELDS, **more}) is None


@pytest.mark.parametrize("wanted", [FORMAT, {"type": "json_object"}])
def test_the_draft_is_unbound_and_the_answer_calls_nothing(wanted: dict[str, Any]) -> None:
    either = reader(response_format=wanted)

    assert "response_format" not in either.draft
    assert either.draft["tools"] == either.bound["tools"] == [TOOL]
    assert (either.bound["response_format"], either.bound["tool_choice"]) == (wanted, "none")


def test_a_call_goes_out_as_it_comes_without_the_words_before_it() -> None:
    either = reader()
    told = deltas(either, chunk({"role": "assistant", "content": None}), chunk({"content": "I look."}), chunk(CALL))
    *_, end = either.translate(chunk({}, "tool_calls"))

    assert told == [{"role": "assistant", "content": None}, CALL]
    assert end["choices"][0]["finish_reason"] == either.finish_reason == "tool_calls"
    assert not either.is_answer


def test_of_several_calls_the_first_goes_out_where_one_is_wanted() -> None:
    assert deltas(reader(parallel_tool_calls=False), chunk(CALL), chunk(SECOND_CALL)) == [CALL]


def test_words_without_a_call_are_written_again_under_the_id_and_role_of_the_draft() -> None:
    either = reader()
    told = deltas(either, chunk({"role": "assistant", "content": None}), chunk({"content": "Blue."}), chunk({}, "stop"))
    assert told == [{"role": "assistant", "content": None}]
    assert either.is_answer

    either.begin_answer()
    first = either.translate(chunk({"role": "assistant", "content": None}, name="bound"))
    second = either.translate(chunk({"content": "{}"}, name="bound"))
    last = either.translate(chunk({}, "length", name="bound"))

    assert [each["choices"][0]["delta"] for each in first + second] == [{"content": None}, {"content": "{}"}]
    assert {each["id"] for each in second + last} == {"draft"}
    assert either.finish_reason == "length"


def test_more_words_than_anybody_says_before_a_call_are_an_answer() -> None:
    either = reader()
    either.translate(chunk({"content": "a" * PREFACE_CHARACTERS}))
    assert not either.is_answer

    either.translate(chunk({"content": "a"}))

    assert either.is_answer


def test_a_draft_that_ends_while_it_reasons_is_all_there_is() -> None:
    either = reader()
    told = deltas(either, chunk({"reasoning_content": "Hm"}), chunk({}, "length"))

    assert told == [{"reasoning_content": "Hm"}, {}]
    assert not either.is_answer


def test_words_that_nobody_was_told_of_do_not_count() -> None:
    either = reader()
    either.translate(chunk({"reasoning_content": "Hm"}))
    either.translate(chunk({"content": "Blue."}))
    either.translate(chunk({}, "stop"))
    either.begin_answer()

    end = either.finished(Finished("r", "stop", Usage(10, 5, 9), Timings(1.0, 2.0, 3.0, 9)), cached_tokens=2)

    assert end.usage == Usage(10, 6, 2)
    assert end.timings.cached_tokens == 2
    assert end.timings.decode_ms >= 5.0


def test_several_choices_are_refused_by_name() -> None:
    with pytest.raises(BadRequest) as caught:
        call_or_answer({**FIELDS, "n": 2})

    assert caught.value.param == "n"
