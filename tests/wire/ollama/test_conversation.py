from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import BadRequest
from wire.ollama.client import PNG, PNG_PART, chat, hub_body

LAST = {"role": "user", "content": "q"}


def hub(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """The hub's messages for *messages*, without the question at their end."""
    found: list[dict[str, Any]] = hub_body(chat(messages=[*messages, LAST]))["messages"]
    assert found[-1] == LAST
    return found[:-1]


def uses(*names: str, ids: tuple[str | None, ...] = ()) -> dict[str, Any]:
    ids = ids or (None,) * len(names)
    calls = [
        {**({"id": id} if id else {}), "function": {"name": name, "arguments": {"a": 1}}}
        for id, name in zip(ids, names, strict=True)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def gives(content: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **({"tool_name": name} if name else {}), **more}


def ids_of(messages: list[dict[str, Any]]) -> tuple[list[str], list[tuple[str, str]]]:
    """The ids of all calls, and what came for which."""
    calls = [call["id"] for message in messages for call in message.get("tool_calls", [])]
    results = [(m["content"], m["tool_call_id"]) for m in messages if m["role"] == "tool"]
    return calls, results


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "system", "content": "s"}, {"role": "system", "content": "s"}),
        ({"role": "user"}, {"role": "user", "content": ""}),
        ({"role": "user", "content": None}, {"role": "user", "content": ""}),
        ({"role": "user", "content": "a", "images": []}, {"role": "user", "content": "a"}),
        (
            {"role": "user", "content": "a", "images": [PNG, PNG]},
            {"role": "user", "content": [PNG_PART, PNG_PART, {"type": "text", "text": "a"}]},
        ),
        ({"role": "user", "images": [PNG]}, {"role": "user", "content": [PNG_PART]}),
        ({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "a"}),
        ({"role": "assistant", "content": ""}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": "a", "thinking": "t"},
            {"role": "assistant", "content": "a", "reasoning_content": "t"},
        ),
    ],
)
def test_a_message_is_the_hubs(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert hub(message) == [expected]


def test_a_call_gets_an_id_and_its_arguments_are_text() -> None:
    call, result = hub(uses("f"), gives("r", "f"))

    function = {"name": "f", "arguments": '{"a": 1}'}
    assert call["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert call["content"] is None
    assert result == {"role": "tool", "tool_call_id": "call_0", "name": "f", "content": "r"}


def test_a_call_may_have_no_arguments() -> None:
    (call,) = hub({"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f"}}]})

    assert call["tool_calls"][0]["function"]["arguments"] == "{}"
    assert call["content"] == "a"


@pytest.mark.parametrize(
    ("messages", "calls", "results"),
    [
        # In the order of the calls where nothing else is said.
        ([uses("f", "g"), gives("1"), gives("2")], ["call_0", "call_1"], [("1", "call_0"), ("2", "call_1")]),
        # By name, whatever the order.
        ([uses("f", "g"), gives("1", "g"), gives("2", "f")], ["call_0", "call_1"], [("1", "call_1"), ("2", "call_0")]),
        # Twice the same name: in order.
        ([uses("f", "f"), gives("1", "f"), gives("2", "f")], ["call_0", "call_1"], [("1", "call_0"), ("2", "call_1")]),
        # By id before all else.
        (
            [uses("f", "g", ids=("x", "y")), gives("1", "f", tool_call_id="y"), gives("2", tool_call_id="x")],
            ["x", "y"],
            [("1", "y"), ("2", "x")],
        ),
        # Ids of the client's and of ours never meet.
        (
            [uses("f", "g", ids=(None, "call_0")), gives("1", "g"), gives("2", "f")],
            ["call_1", "call_0"],
            [("1", "call_0"), ("2", "call_1")],
        ),
        # One turn after the other.
        (
            [uses("f"), gives("1", "f"), uses("f"), gives("2", "f")],
            ["call_0", "call_1"],
            [("1", "call_0"), ("2", "call_1")],
        ),
        # No call waits for it.
        ([gives("1", "f")], [], [("1", "call_0")]),
        ([uses("f"), gives("1", "h"), gives("2", "f")], ["call_0"], [("1", "call_1"), ("2", "call_0")]),
        ([gives("1", tool_call_id="z")], [], [("1", "z")]),
    ],
)
def test_a_result_finds_its_call(messages: Any, calls: list[str], results: list[tuple[str, str]]) -> None:
    assert ids_of(hub(*messages)) == (calls, results)


@given(names=st.lists(st.sampled_from("fgh"), max_size=6), data=st.data())
def test_results_by_name_answer_each_call_once(names: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(names))
    calls, results = ids_of(hub(*([uses(*names)] if names else []), *(gives("r", name) for name in order)))

    named = dict(zip(calls, names, strict=True))
    assert sorted(id for _, id in results) == sorted(calls)
    assert [named[id] for _, id in results] == order


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "developer", "content": "a"}, "messages[0].role"),
        ({"content": "a"}, "messages[0]"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, "messages[0].content"),
        ({"role": "user", "images": ["AAAA"]}, "messages[0].images[0]"),
        ({"role": "user", "images": [PNG, "https://x/y.png"]}, "messages[0].images[1]"),
        ({"role": "user", "images": [f"data:image/png;base64,{PNG}"]}, "messages[0].images[0]"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": ""}}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_is_wrong_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        hub(message)

    assert caught.value.param == param
