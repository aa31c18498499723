from __future__ import annotations

import json

import pytest

from cortex.cli.failures import Misconfigured
from cortex.cli.loadtest.target import Ask, target


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "secure"),
    [
        ("http://box:31313", "box", 31313, "/v1/chat/completions", False),
        ("box:31313/v1/", "box", 31313, "/v1/chat/completions", False),
        ("https://api.example.com/v1", "api.example.com", 443, "/v1/chat/completions", True),
        ("https://api.example.com/openai/v1", "api.example.com", 443, "/openai/v1/chat/completions", True),
        ("http://[::1]:8000", "::1", 8000, "/v1/chat/completions", False),
        ("box", "box", 80, "/v1/chat/completions", False),
    ],
)
def test_a_server_is_named_as_its_clients_name_it(url: str, host: str, port: int, path: str, secure: bool) -> None:
    found = target(url, None)

    assert (found.host, found.port, found.path, found.tls is not None) == (host, port, path, secure)


@pytest.mark.parametrize("url", ["ftp://box", "http://", "http://box:99999", "http://box:port", "http://box:0"])
def test_what_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="expected http"):
        target(url, None)


def test_a_request_shows_the_key_and_says_its_length() -> None:
    sent = target("http://user:pass@box:8000", "sk-1").request(b"{}")

    assert b"authorization: Bearer sk-1\r\n" in sent
    assert b"host: box:8000\r\n" in sent
    assert sent.endswith(b"content-length: 2\r\n\r\n{}")


def test_no_two_prompts_begin_alike_unless_they_are_to() -> None:
    ask = Ask("m", 16, 8)
    same = Ask("m", 16, 8, same_prompt=True)

    assert ask.body(1) != ask.body(2)
    assert ask.body(1) == ask.body(1)
    assert same.body(1) == same.body(2)


def test_a_prompt_has_about_as_many_words_as_tokens_are_wanted() -> None:
    content = json.loads(Ask("m", 500, 8).body(3))["messages"][0]["content"]

    assert 500 <= len(content.split()) <= 520
