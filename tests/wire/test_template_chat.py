from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from cortex.wire.template_chat import only_functions, with_known_words

CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}


def known(*messages: dict[str, Any]) -> Any:
    return json.loads(bytes(with_known_words(msgspec.Raw(json.dumps(messages).encode()))))


@pytest.mark.parametrize(("role", "becomes"), [("developer", "system"), ("function", "tool"), ("user", "user")])
def test_a_role_is_one_that_templates_know(role: str, becomes: str) -> None:
    assert known({"role": role, "content": "x", "name": "n"}) == [{"role": becomes, "content": "x", "name": "n"}]


def test_a_call_has_a_type_also_where_the_client_left_it_out() -> None:
    (message,) = known({"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "type": "function"}]})

    assert message["tool_calls"] == [{**CALL, "type": "function"}] * 2


def test_a_tool_that_is_no_function_is_left_out() -> None:
    function = {"type": "function", "function": {"name": "f"}}
    tools = msgspec.Raw(json.dumps([{"type": "web_search"}, function]).encode())

    assert json.loads(bytes(only_functions(tools))) == [function]


def test_what_a_message_says_null_of_it_does_not_say_but_for_its_content() -> None:
    said = {"role": "assistant", "content": None, "name": None, "tool_calls": [{**CALL, "index": None}]}

    assert known(said) == [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", **CALL}]}]


def test_what_a_tool_says_null_of_it_does_not_say_but_in_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1], "default": None}}}
    told: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": schema}}
    tool = {"type": "function", "cache": None, "function": {**told["function"], "description": None, "strict": None}}

    assert json.loads(bytes(only_functions(msgspec.Raw(json.dumps([tool]).encode())))) == [told]
