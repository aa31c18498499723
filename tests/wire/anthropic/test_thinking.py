from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.anthropic.schema import Thinking
from cortex.wire.anthropic.thinking import (
    MAX_SEALED_BYTES,
    Display,
    display_of,
    recalled,
    shown,
    signature_of,
)


@pytest.mark.parametrize(
    ("asked", "display"),
    [
        (None, Display.NOTHING),
        (Thinking("disabled"), Display.NOTHING),
        (Thinking("enabled", budget_tokens=1024), Display.TEXT),
        (Thinking("adaptive"), Display.TEXT),
        (Thinking("adaptive", display="summarized"), Display.TEXT),
        (Thinking("adaptive", display="omitted"), Display.SEALED),
        (Thinking("disabled", display="omitted"), Display.NOTHING),
    ],
)
def test_thinking_is_shown_to_those_who_ask(asked: Thinking | None, display: Display) -> None:
    assert display_of(asked) is display


@given(st.text(), st.sampled_from([Display.TEXT, Display.SEALED]))
def test_a_block_that_comes_back_is_the_reasoning_it_was(text: str, display: Display) -> None:
    assert recalled(shown(text, display), signature_of(text, display)) == text


@given(st.text(min_size=1))
def test_a_signature_is_the_same_for_the_same_text_alone(text: str) -> None:
    assert signature_of(text, Display.TEXT) == signature_of(text, Display.TEXT)
    assert signature_of(text, Display.TEXT) != signature_of(text + "x", Display.TEXT)


@given(st.text(), st.text())
def test_any_signature_is_harmless(text: str, signature: str) -> None:
    assert recalled(text, signature) == text
    assert recalled("", "ctx2." + signature) in ("", signature)


def test_a_signature_of_a_text_that_is_shown_has_none_of_it() -> None:
    assert len(signature_of("a" * 100_000, Display.TEXT)) < 64


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        zlib.compress(b"a" * 100)[:-1],
        zlib.compress(b"\xff"),
        zlib.compress(b"a" * (MAX_SEALED_BYTES + 1)),
    ],
    ids=["nothing", "junk", "cut", "no text", "a bomb"],
)
def test_what_cannot_be_unsealed_is_nothing(raw: bytes) -> None:
    assert recalled("", "ctx2." + urlsafe_b64encode(raw).decode()) == ""
