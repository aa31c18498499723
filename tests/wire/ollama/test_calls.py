from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.hub_stream import Call, Function
from cortex.wire.ollama.calls import Calls


def calls(*pieces: tuple[int, str | None, str | None]) -> Calls:
    subject = Calls()
    for at, name, arguments in pieces:
        subject.add(at, Call(id=f"id_{name}" if name else None, function=Function(name, arguments)))
    return subject


def short(subject: Calls) -> list[tuple[Any, ...]]:
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in subject.whole()]


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([], []),
        ([(0, "f", "{}")], [("id_f", "f", {})]),
        ([(0, "f", None)], [("id_f", "f", {})]),
        ([(0, "f", ""), (0, None, '{"a"'), (0, None, ":1}")], [("id_f", "f", {"a": 1})]),
        ([(0, None, '{"a":'), (0, "f", "1}")], [("id_f", "f", {"a": 1})]),
        ([(7, "g", "{"), (3, "f", "{"), (3, None, "}"), (7, None, "}")], [("id_f", "f", {}), ("id_g", "g", {})]),
        ([(0, "f", ' {"a":\n1.50} ')], [("id_f", "f", {"a": 1.5})]),
    ],
)
def test_pieces_become_whole_calls(pieces: Any, whole: list[Any]) -> None:
    subject = calls(*pieces)

    assert (short(subject), subject.spoiled()) == (whole, "")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([(0, "f", '{"a": "b')], '{"name": "f", "arguments": {"a": "b}'),
        ([(0, "f", "[1]")], '{"name": "f", "arguments": [1]}'),
        ([(0, "f", "{} {}")], '{"name": "f", "arguments": {} {}}'),
        ([(0, "f", "[" * 5000)], '{"name": "f", "arguments": ' + "[" * 5000 + "}"),
        ([(0, None, "{}")], '{"name": "", "arguments": {}}'),
        ([(0, 'f"', "x"), (1, "g", "y")], '{"name": "f\\"", "arguments": x}\n{"name": "g", "arguments": y}'),
        ([(0, None, None)], ""),
    ],
)
def test_what_cannot_be_called_is_shown_as_the_model_wrote_it(pieces: Any, text: str) -> None:
    subject = calls(*pieces)

    assert (short(subject), subject.spoiled()) == ([], text)


def test_a_good_call_beside_a_bad_one_is_made() -> None:
    subject = calls((0, "f", "{"), (1, "g", "{}"))

    assert short(subject) == [("id_g", "g", {})]
    assert subject.whole()[0]["function"]["index"] == 0
    assert subject.spoiled() == '{"name": "f", "arguments": {}'


def test_a_call_without_an_id_gets_one() -> None:
    subject = Calls()
    subject.add(0, Call(function=Function("f")))

    assert subject.whole()[0]["id"] == "call_0"


@given(st.dictionaries(st.text(), st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(), st.none())), st.data())
def test_arguments_are_the_models_however_they_are_cut(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = data.draw(st.integers(0, len(text)))

    assert short(calls((0, "f", text[:cut]), (0, None, text[cut:]))) == [("id_f", "f", value)]
