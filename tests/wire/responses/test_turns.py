from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.responses.dialogue import PNG, Value, chat, gives, makes, read, refused, roles, says, thinks


def test_instructions_and_leading_messages_are_one_system_message() -> None:
    messages = chat(says("developer", "b", "c"), says("system", "d"), says("user", "hi"), instructions="a")

    assert messages == [{"role": "system", "content": "a\n\nb\n\nc\n\nd"}, {"role": "user", "content": "hi"}]


def test_a_later_one_is_at_the_front_of_the_next_user_turn() -> None:
    items = [says("user", "1"), says("developer", "x"), says("assistant", "2"), says("system", "y"), says("user", "3")]

    messages = chat(*items)

    assert roles(messages) == ["user", "assistant", "user"]
    assert messages[2]["content"] == "x\n\ny\n\n3"


def test_a_later_one_stands_before_the_parts_of_a_user_turn() -> None:
    image = {"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}

    messages = chat(says("user", "1"), says("developer", "x"), image)

    assert messages[1]["content"][0] == {"type": "text", "text": "x"}
    assert messages[1]["content"][1]["type"] == "image_url"


def test_the_last_word_ends_the_users_turn() -> None:
    assert chat(says("user", "1"), says("system", "x")) == [{"role": "user", "content": "1\n\nx"}]


def test_the_last_word_after_the_assistant_is_a_turn_of_its_own() -> None:
    messages = chat(says("user", "1"), says("assistant", "2"), says("system", "x"))

    assert messages[2] == {"role": "user", "content": "x"}


def test_one_between_a_call_and_its_output_does_not_part_them() -> None:
    messages = chat(says("user", "1"), makes("a"), says("developer", "x"), gives("a"), says("user", "2"))

    assert roles(messages) == ["user", "assistant", "tool", "user"]
    assert messages[3]["content"] == "x\n\n2"


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "developer"]), texts), min_size=1))
def test_no_message_is_lost_and_only_the_first_is_system(spoken: list[tuple[str, str]]) -> None:
    messages = chat(*(says(role, f"<{at}:{text}>") for at, (role, text) in enumerate(spoken)))

    said = "\n".join(message["content"] for message in messages)
    assert all(f"<{at}:{text}>" in said for at, (_, text) in enumerate(spoken))
    assert "system" not in roles(messages)[1:]


def test_what_the_assistant_did_in_one_turn_is_one_message() -> None:
    items = [says("user", "1"), thinks("hm"), says("assistant", "wait"), makes("a"), makes("b", "g", '{"x":1}')]

    messages = chat(*items, gives("a", "A"), gives("b", "B"))

    assert messages[1] == {
        "role": "assistant",
        "content": "wait",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":1}'}},
        ],
    }
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "A"},
        {"role": "tool", "tool_call_id": "b", "content": "B"},
    ]


def test_a_turn_of_calls_alone_has_no_text() -> None:
    assert chat(makes("a"), gives("a"))[0]["content"] is None


def test_a_turn_of_reasoning_alone_has_empty_text() -> None:
    assert chat(thinks("hm"), says("user", "x"))[0] == {"role": "assistant", "content": "", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    "items",
    [
        [makes("a"), makes("b"), gives("b"), gives("a")],
        [makes("a"), makes("b"), gives("a"), says("user", "x"), gives("b")],
        [makes("a"), says("assistant", "amid"), makes("b"), gives("a"), gives("b")],
    ],
    ids=["turned round", "late", "with text amid"],
)
def test_outputs_stand_right_after_their_calls_and_in_their_order(items: list[Value]) -> None:
    messages = chat(*items)

    assert roles(messages)[:3] == ["assistant", "tool", "tool"]
    assert [message["tool_call_id"] for message in messages[1:3]] == ["a", "b"]


def test_calls_after_an_output_are_the_next_turn() -> None:
    messages = chat(makes("a"), gives("a"), makes("b"), gives("b"))

    assert roles(messages) == ["assistant", "tool", "assistant", "tool"]


def test_a_call_id_may_come_again() -> None:
    messages = chat(makes("a"), gives("a", "1"), makes("a"), gives("a", "2"))

    assert [message["content"] for message in messages if message["role"] == "tool"] == ["1", "2"]


def test_an_output_that_no_call_waits_for_is_refused() -> None:
    error = refused(input=[makes("a"), gives("a"), gives("a")])

    assert error.param == "input[2].call_id"


def test_an_output_may_be_parts() -> None:
    parts = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PNG, "detail": "low"}]

    messages = chat(makes("a"), gives("a", parts), makes("b"), gives("b", parts[:1]))

    assert messages[1]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
    ]
    assert messages[3]["content"] == "see"


def test_a_call_in_a_namespace_has_its_joined_name() -> None:
    assert chat(makes("a", namespace="ns"), gives("a"))[0]["tool_calls"][0]["function"]["name"] == "ns__f"


def test_a_custom_call_is_a_function_of_one_text() -> None:
    made = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'say "hi"\n'}
    gave = {"type": "custom_tool_call_output", "call_id": "a", "output": "ok"}

    messages = chat(made, gave)

    assert messages[0]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input":"say \\"hi\\"\\n"}'}
    assert messages[1]["content"] == "ok"


def test_an_image_by_its_address_is_the_hub_s_to_take_or_refuse() -> None:
    """A gateway that may fetch it puts a data: URL in its place before a node sees it."""
    image = {"type": "input_image", "image_url": "https://example.org/a.png"}
    translation = read(input=[{"role": "user", "content": [image]}])

    assert b'{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}' in translation.body
