from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cortex.core.errors import BadRequest
from cortex.wire.anthropic.conversation import hub_messages
from cortex.wire.anthropic.schema import Prompt
from cortex.wire.anthropic.thinking import Display, signature_of

USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
USE_2 = {"type": "tool_use", "id": "t2", "name": "g", "input": {}}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
CALL_2 = {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
USED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
BILLING = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cch=eb6c6;"


def fold(*messages: tuple[str, Any], system: Any = None) -> tuple[list[dict[str, Any]], set[str]]:
    fields = {"model": "m", "messages": [{"role": role, "content": content} for role, content in messages]}
    prompt = msgspec.json.decode(msgspec.json.encode({**fields, "system": system}), type=Prompt)
    ignored: set[str] = set()
    return hub_messages(prompt, ignored), ignored


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def result(content: Any = ..., id_: str = "t1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, **({} if content is ... else {"content": content}), **more}


def tool(content: str, id_: str = "t1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


@pytest.mark.parametrize(
    ("messages", "prompt", "expected"),
    [
        ([("user", "a")], None, [user("a")]),
        ([("user", "a")], "s", [system("s"), user("a")]),
        ([("user", "a")], [text("s"), text(""), text("t")], [system("s\n\nt"), user("a")]),
        ([("user", "a")], "", [user("a")]),
        ([("system", "t"), ("developer", [text("u")]), ("user", "a")], "s", [system("s\n\nt\n\nu"), user("a")]),
        # A later one is at its place in a user turn.
        ([("user", "a"), ("system", "s")], None, [user("a\n\ns")]),
        (
            [("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c")],
            None,
            [user("a"), assistant("b"), user("s\n\nc")],
        ),
        (
            [("user", "a"), ("assistant", "b"), ("developer", "s")],
            None,
            [user("a"), assistant("b"), user("s")],
        ),
        (
            [("user", "a"), ("assistant", [USE]), ("system", "s"), ("user", [result("r")])],
            None,
            [user("a"), USED, tool("r"), user("s")],
        ),
    ],
)
def test_a_system_message_is_where_every_template_takes_it(messages: Any, prompt: Any, expected: Any) -> None:
    assert fold(*messages, system=prompt)[0] == expected


def test_the_system_prompt_is_the_clients_to_the_letter() -> None:
    """Also the note for billing with which some clients begin theirs."""
    folded = fold(("user", "a"), system=[text(BILLING), text(" s \n")])
    in_one = fold(("user", "a"), system=f"{BILLING}\ns")

    assert folded == ([system(f"{BILLING}\n\n s \n"), user("a")], set())
    assert in_one == ([system(f"{BILLING}\ns"), user("a")], set())


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "a"), ("user", [text("b")])], [user("a\n\nb")]),
        (
            [("user", "a"), ("assistant", "b"), ("assistant", "c"), ("user", "d")],
            [user("a"), assistant("b\n\nc"), user("d")],
        ),
        ([("user", "a"), ("assistant", [text("b"), text("c")])], [user("a"), assistant("bc")]),
        ([("user", "")], [user("")]),
        ([("user", [])], [user("")]),
        ([("user", "a"), ("assistant", []), ("user", "b")], [user("a"), assistant(""), user("b")]),
        ([("assistant", "a"), ("user", "b")], [assistant("a"), user("b")]),
        ([("user", [text("a"), IMAGE, text("b"), text("c")])], [user([text("a"), IMAGE_PART, text("b\n\nc")])]),
    ],
)
def test_messages_of_one_role_are_one_turn(messages: Any, expected: Any) -> None:
    assert fold(*messages)[0] == expected


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([result("r")], [tool("r")]),
        ([result()], [tool("")]),
        ([result("")], [tool("")]),
        ([result([])], [tool("")]),
        ([result([text("r"), text("s")])], [tool("r\n\ns")]),
        ([result("r", is_error=True)], [tool("Error: r")]),
        ([result("r", is_error=False)], [tool("r")]),
        ([result("r"), text("a")], [tool("r"), user("a")]),
        # What is not a result comes after all results, wherever it was.
        ([text("a"), result("r")], [tool("r"), user("a")]),
        ([result("s", "t2"), text("a"), result("r")], [tool("s", "t2"), tool("r"), user("a")]),
        ([result([text("r"), IMAGE]), text("a")], [tool("r\n\n[image]"), user([IMAGE_PART, text("a")])]),
        ([result([IMAGE])], [tool("[image]"), user([IMAGE_PART])]),
    ],
)
def test_results_follow_their_calls_directly(blocks: Any, expected: Any) -> None:
    assert fold(("user", "q"), ("assistant", [USE]), ("user", blocks))[0] == [user("q"), USED, *expected]


def test_results_in_several_messages_are_one_turn() -> None:
    folded, _ = fold(("user", "q"), ("assistant", [USE, USE_2]), ("user", [result("r")]), ("user", [result("s", "t2")]))

    assert folded[1:] == [assistant(None, tool_calls=[CALL, CALL_2]), tool("r"), tool("s", "t2")]


def test_text_thinking_and_calls_of_a_turn_are_one_message() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "x"}, text("a"), USE, USE_2]

    assert fold(("user", "q"), ("assistant", blocks), ("user", [result("r")]))[0][1] == assistant(
        "a", reasoning_content="hm", tool_calls=[CALL, CALL_2]
    )


@pytest.mark.parametrize(
    ("block", "reasoning"),
    [
        ({"type": "thinking", "thinking": "hm", "signature": ""}, "hm"),
        ({"type": "thinking", "thinking": "hm"}, "hm"),
        ({"type": "thinking", "thinking": "hm", "signature": "EqoBCkgIARABGAIiQL"}, "hm"),
        ({"type": "thinking", "thinking": "changed", "signature": signature_of("hm", Display.TEXT)}, "changed"),
        ({"type": "thinking", "thinking": "changed", "signature": signature_of("hm", Display.SEALED)}, "changed"),
        ({"type": "thinking", "thinking": "", "signature": signature_of("hm", Display.SEALED)}, "hm"),
        ({"type": "thinking", "thinking": "", "signature": "EqoBCkgIARABGAIiQL"}, None),
        ({"type": "redacted_thinking", "data": "EmwKAhgB"}, None),
    ],
)
def test_whoever_signed_it_thinking_is_read_back(block: Any, reasoning: str | None) -> None:
    message = fold(("user", "q"), ("assistant", [block, text("a")]), ("user", "b"))[0][1]

    assert message.get("reasoning_content") == reasoning
    assert message["content"] == "a"


def test_arguments_go_back_as_they_came() -> None:
    body = (
        b'{"model":"m","messages":[{"role":"assistant","content":'
        b'[{"type":"tool_use","id":"t1","name":"f","input":{"b" : 1.0, "a":"\\u00e9"}}]}]}'
    )

    message = hub_messages(msgspec.json.decode(body, type=Prompt), set())[0]

    assert message["tool_calls"][0]["function"]["arguments"] == '{"b" : 1.0, "a":"\\u00e9"}'


def test_what_anthropics_servers_did_is_left_out_by_name() -> None:
    blocks = [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
        {"type": "redacted_thinking", "data": "x"},
        {**text("a"), "cache_control": {"type": "ephemeral"}},
    ]

    folded, ignored = fold(("user", "q"), ("assistant", blocks), ("user", "b"))

    assert folded[1] == assistant("a")
    assert ignored == {
        "cache_control",
        "messages.redacted_thinking",
        "messages.server_tool_use",
        "messages.web_search_tool_result",
    }


@pytest.mark.parametrize(
    "messages",
    [
        [("user", [{**text("a"), "cache_control": {}}])],
        [("assistant", [{**USE, "cache_control": {}}]), ("user", [result("r")])],
        [("assistant", [USE]), ("user", [result("r", cache_control={})])],
    ],
)
def test_a_cache_mark_is_named_wherever_it_is(messages: Any) -> None:
    assert fold(*messages)[1] == {"cache_control"}


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([("system", "s")], "messages"),
        ([("user", [USE])], "messages.0.content.0.type"),
        ([("user", "a"), ("assistant", [text("a"), IMAGE])], "messages.1.content.1.type"),
        ([("user", [result("r", id_="")])], "messages.0.content.0.tool_use_id"),
        ([("user", [result({"a": 1})])], "messages.0.content.0.content"),
        ([("user", [result([USE])])], "messages.0.content.0.content.0.type"),
        ([("assistant", [{**USE, "id": ""}])], "messages.0.content.0.id"),
        ([("assistant", [{"type": "tool_use", "id": "t"}])], "messages.0.content.0.name"),
        ([("assistant", [{**USE, "input": "a"}])], "messages.0.content.0.input"),
        ([("system", [IMAGE]), ("user", "a")], "messages.0.content.0.type"),
        ([("assistant", [{"type": "tool_result", "tool_use_id": "t"}])], "messages.0.content.0.type"),
    ],
)
def test_what_is_in_the_wrong_place_is_refused_by_name(messages: Any, where: str) -> None:
    with pytest.raises(BadRequest) as caught:
        fold(*messages)

    assert caught.value.param == where
    assert caught.value.message.startswith(f"{where}: ")
