"""Reasoning and calls are taken out of a text, wherever its pieces meet."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.engines.transformers.markup import Called, Marks, Piece, Said, Thought

TOOLS: dict[str, dict[str, Any]] = {
    "look": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
WHOLE = (
    "<think>Is it wet?\nPerhaps.</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "look", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>\n'
    "<tool_call>\n<function=look>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n4\n</parameter>\n</function>\n"
    "</tool_call>"
)


def read(pieces: list[str], *, tools: Any = TOOLS, reasons: bool = True, thinking: bool = False) -> list[Piece]:
    marks = Marks(tools, reasons=reasons, thinking=thinking)
    found = [piece for text in pieces for piece in marks.feed(text)]
    return joined([*found, *marks.flush()])


def joined(pieces: list[Piece]) -> list[Piece]:
    whole: list[Piece] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if isinstance(piece, Said) and isinstance(last, Said):
            whole[-1] = Said(last.text + piece.text)
        elif isinstance(piece, Thought) and isinstance(last, Thought):
            whole[-1] = Thought(last.text + piece.text)
        else:
            whole.append(piece)
    return whole


@given(st.lists(st.integers(0, 400), max_size=40))
def test_pieces_may_meet_anywhere(places: list[int]) -> None:
    at = sorted({0, len(WHOLE), *(place % (len(WHOLE) + 1) for place in places)})
    pieces = read([WHOLE[a:b] for a, b in itertools.pairwise(at)])

    assert [type(piece) for piece in pieces] == [Thought, Said, Called, Called]
    assert pieces[0] == Thought("Is it wet?\nPerhaps.")
    assert isinstance(pieces[1], Said)
    assert pieces[1].text.strip() == "Let me look."
    assert [json.loads(p.arguments) for p in pieces if isinstance(p, Called)] == [
        {"city": "Oslo", "days": 3},
        {"city": "12", "days": 4},
    ]


def test_reasoning_that_the_prompt_opened_is_reasoning() -> None:
    assert read(["Hm.</think>", "Yes."], thinking=True) == [Thought("Hm."), Said("Yes.")]


def test_reasoning_that_is_cut_short_is_still_reasoning() -> None:
    assert read(["<think>Hm"]) == [Thought("Hm")]


@pytest.mark.parametrize(
    "body", ["", "not json", '{"name": 7, "arguments": {}}', '{"name": "look", "arguments": []}', "[1]", '"x"', "null"]
)
def test_what_is_no_call_stays_text(body: str) -> None:
    text = f"<tool_call>{body}</tool_call>"

    assert read([text]) == [Said(text)]


def test_a_call_without_its_end_is_a_call_if_it_is_whole() -> None:
    assert read(['<tool_call>{"name": "look", "arguments": {}}']) == [Called("look", "{}")]


def test_a_call_that_is_cut_short_is_text() -> None:
    assert read(['<tool_call>{"name": "lo']) == [Said('<tool_call>{"name": "lo')]


def test_arguments_may_come_as_text() -> None:
    assert read(['<tool_call>{"name": "look", "arguments": "{\\"days\\": 1}"}</tool_call>']) == [
        Called("look", '{"days":1}')
    ]


def test_without_tools_a_call_is_text() -> None:
    assert read(["<tool_call>{}</tool_call>"], tools={}) == [Said("<tool_call>{}</tool_call>")]


def test_a_model_without_marks_loses_nothing() -> None:
    assert read(["  <think> a < b </think>\n"], tools={}, reasons=False) == [Said("  <think> a < b </think>\n")]
