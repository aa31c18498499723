"""An error as each path's clients read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextLengthExceeded,
    CortexError,
    InsufficientMemory,
    LoadFailed,
    NoHealthyNode,
    Overloaded,
)
from cortex.wire.envelopes import MESSAGES, answer_of, id_lines, is_anthropic, is_ollama
from cortex.wire.openai import CHAT

RESPONSES, OLLAMA = "/v1/responses", "/api/chat"


def told(error: CortexError, path: str) -> tuple[int, Any, dict[str, str]]:
    status, body, headers = answer_of(error, path, "req-1")
    assert len(dict(headers)) == len(headers)
    return status, json.loads(body), {name.decode(): value.decode() for name, value in headers}


@pytest.mark.parametrize(
    ("path", "anthropic", "ollama"),
    [
        (MESSAGES, True, False),
        (f"{MESSAGES}/count_tokens", True, False),
        (f"{MESSAGES}-of-others", False, False),
        (CHAT, False, False),
        (RESPONSES, False, False),
        ("/v1/models", False, False),
        (OLLAMA, False, True),
        ("/api/not/offered", False, True),
        ("/apiary", False, False),
        ("", False, False),
    ],
)
def test_a_path_says_whose_dialect_it_speaks(path: str, anthropic: bool, ollama: bool) -> None:
    assert (is_anthropic(path), is_ollama(path)) == (anthropic, ollama)


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_openai_s_envelope_has_a_type_a_code_and_a_param(path: str) -> None:
    status, body, headers = told(BadRequest("temperature: too hot", param="temperature", code="invalid_value"), path)

    assert status == 400
    assert body == {
        "error": {
            "message": "temperature: too hot",
            "type": "invalid_request_error",
            "code": "invalid_value",
            "param": "temperature",
        }
    }
    assert headers == {}


def test_anthropic_s_envelope_has_a_type_and_the_request() -> None:
    status, body, headers = told(BadRequest("max_tokens: Field required", param="max_tokens"), MESSAGES)

    error = {"type": "invalid_request_error", "message": "max_tokens: Field required"}
    assert (status, body) == (400, {"type": "error", "error": error, "request_id": "req-1"})
    assert headers == {}


def test_ollama_s_envelope_is_a_message_under_the_same_status() -> None:
    error = BadRequest("think: Invalid value", param="think")

    assert told(error, OLLAMA) == (400, {"error": "think: Invalid value"}, {})


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_each_client_knows() -> None:
    error = ContextLengthExceeded(5000, 2048)

    assert told(error, CHAT)[1]["error"]["code"] == "context_length_exceeded"
    assert told(error, MESSAGES)[1]["error"]["message"] == "prompt is too long: 5000 tokens > 2048 maximum"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA])
def test_a_full_queue_says_when_to_come_back(path: str) -> None:
    status, _, headers = told(Overloaded("full"), path)
    assert (status, headers) == (429, {"retry-after": "2"})


@pytest.mark.parametrize(
    ("error", "anthropic_status", "anthropic_type"),
    [
        (NoHealthyNode("none"), 529, "overloaded_error"),
        (InsufficientMemory("too small"), 529, "overloaded_error"),
        (LoadFailed("broken"), 503, "api_error"),
    ],
)
def test_what_waiting_cures_is_an_overload_to_anthropic_s_clients(
    error: CortexError, anthropic_status: int, anthropic_type: str
) -> None:
    status, body, headers = told(error, MESSAGES)

    assert (status, body["error"]["type"]) == (anthropic_status, anthropic_type)
    assert told(error, CHAT)[0] == 503
    assert headers == told(error, CHAT)[2]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, OLLAMA])
def test_a_failure_that_a_repeat_does_not_cure_says_so(path: str) -> None:
    assert told(LoadFailed("broken"), path)[2] == {"x-should-retry": "false"}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_missing_key_is_challenged(path: str) -> None:
    status, body, headers = told(AuthenticationFailed("no key"), path)

    assert (status, body["error"]["type"]) == (401, "authentication_error")
    assert headers == {"www-authenticate": "Bearer"}
    assert told(AuthenticationFailed("no key"), OLLAMA) == (401, {"error": "no key"}, headers)


def test_anthropic_s_clients_find_the_request_under_their_own_header() -> None:
    assert id_lines(CHAT, "req-1") == b"x-request-id: req-1\r\n"
    assert id_lines(MESSAGES, "req-1") == b"x-request-id: req-1\r\nrequest-id: req-1\r\n"
