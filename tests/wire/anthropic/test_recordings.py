from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortex.wire import openai
from cortex.wire.anthropic import count_tokens, read_messages
from wire.anthropic.grammar import collected
from wire.hub import call, chunk, hub_answer, hub_stream

CLIENTS = Path(__file__).parents[4] / "shared" / "clients"
NAMES = ["claude_code", "sdk_anthropic_py_2x", "sdk_anthropic_js"]
ANSWER = [
    chunk({"reasoning_content": "hm"}),
    chunk({"content": "a"}),
    chunk(call(0, "{}", "f")),
    chunk({}, "tool_calls"),
]

pytestmark = pytest.mark.skipif(
    not CLIENTS.is_dir(), reason="the recordings of real clients are not beside this checkout"
)


def recorded(name: str, path: str) -> list[dict[str, Any]]:
    requests = json.loads((CLIENTS / "recordings" / f"{name}.json").read_bytes())
    return [each["body"] for each in requests if each["path"].partition("?")[0] == path and each["method"] == "POST"]


def grammar() -> Callable[[dict[str, Any], bool, bytes], None]:
    """The check of the clients' replay, without its program."""
    tree = ast.parse((CLIENTS / "replay.py").read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    found: dict[str, Any] = {"json": json}
    exec(compile(tree, "replay.py", "exec"), found)
    check: Callable[[dict[str, Any], bool, bytes], None] = found["v_anth"]
    return check


@pytest.mark.parametrize("name", NAMES)
def test_what_real_clients_sent_is_answered_as_they_need_it(name: str) -> None:
    check, bodies = grammar(), recorded(name, "/v1/messages")

    assert bodies
    for body in bodies:
        translation = read_messages(json.dumps(body).encode())
        stream = translation.keep_alive("x") + translation.feed(hub_stream(*ANSWER)) + translation.end()
        whole = translation.whole(hub_answer(*ANSWER))

        assert openai.read_request("chat", translation.body).ignored == ()
        check(body, True, stream)
        check(body, False, whole)
        assert collected(stream) == json.loads(whole)


def test_what_claude_code_sends_reaches_the_hub_whole() -> None:
    """Its system message in the midst of the conversation stands at the end of the user's turn."""
    body = recorded("claude_code", "/v1/messages")[-1]
    translation = read_messages(json.dumps(body).encode())

    hub = json.loads(translation.body)

    assert [message["role"] for message in hub["messages"]] == ["system", "user", "assistant", "tool"]
    assert hub["messages"][0]["content"] == "\n\n".join(block["text"] for block in body["system"])
    assert hub["messages"][1]["content"].endswith(body["messages"][1]["content"])
    assert len(hub["tools"]) == len(body["tools"])
    assert hub["reasoning_effort"] == body["output_config"]["effort"]
    assert translation.ignored == (
        "cache_control",
        "context_management",
        "metadata",
    )


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_real_clients_count_is_taken(name: str) -> None:
    bodies = recorded(name, "/v1/messages/count_tokens")

    assert bodies
    for body in bodies:
        assert count_tokens(json.dumps(body).encode()).model == body["model"]
