from __future__ import annotations

import pytest

from cortex.wire.responses.items import seal
from wire.responses.dialogue import Value, chat, hub_body, read, says, thinks


def test_a_string_is_a_users_message() -> None:
    assert hub_body(input="hello")["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_an_easy_message_is_taken_as_it_is(role: str) -> None:
    assert chat({"role": role, "content": "hello"}) == [{"role": role, "content": "hello"}]


def test_parts_of_a_user_stay_parts() -> None:
    (message,) = chat(says("user", "a", "b"))

    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_texts_of_one_answer_are_joined_as_they_are() -> None:
    (message,) = chat(says("assistant", "Hel", "lo"))

    assert message == {"role": "assistant", "content": "Hello"}


def test_a_refusal_stays_what_the_assistant_said() -> None:
    (message,) = chat({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})

    assert message["content"] == "no"


# reasoning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        thinks("hm"),
        thinks("other", encrypted_content=seal("hm")),
        thinks("", encrypted_content=seal("hm"), content=None),
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        thinks("hm", encrypted_content="gAAAA-of-somebody-else"),
    ],
    ids=["open", "sealed and open", "sealed", "summary", "open beside a foreign seal"],
)
def test_reasoning_is_sent_back_to_the_model(item: Value) -> None:
    assert chat(item, says("assistant", "x"))[0]["reasoning_content"] == "hm"


def test_a_foreign_seal_is_named_and_its_summary_is_not_taken_for_thought() -> None:
    summary = [{"type": "summary_text", "text": "about"}]
    item = {"type": "reasoning", "id": "r", "summary": summary, "encrypted_content": "gAAAA"}

    translation = read(input=[item, says("assistant", "x")])

    assert b"reasoning_content" not in translation.body
    assert translation.ignored == ("input.reasoning.encrypted_content",)


def test_items_of_tools_that_the_server_would_run_are_left_out_and_named() -> None:
    searched = {"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}, "output": 3}

    translation = read(input=[searched, says("user", "x")])

    assert translation.ignored == ("input.web_search_call",)


def test_names_of_what_was_left_out_fit_a_header() -> None:
    translation = read(input=[{"type": "é\r\nset-cookie: a"}, says("user", "x")], tools=[{"type": "a\nb" * 50}])

    assert all(name.isascii() and name.isprintable() and len(name) <= 60 for name in translation.ignored)
