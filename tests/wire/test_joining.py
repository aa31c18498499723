from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import ConfigError
from cortex.wire.joining import JoinRequest, Token, bytes_of, parse_token, shown, text_of

TOKEN = Token("0f1e2d3c", bytes(range(32)), bytes(range(32, 64)))
tokens = st.builds(
    Token,
    st.text("0123456789abcdef", min_size=8, max_size=8),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)


@given(tokens)
def test_a_token_is_read_back_from_what_is_copied_and_pasted(token: Token) -> None:
    text = str(token)

    assert parse_token(f"  {text}\n") == token
    assert text.isprintable()
    assert not set(text) & set(" \t'\"\\$`")
    assert not text.startswith("-"), "it would be taken for an option"


@given(tokens, st.data())
def test_a_part_of_a_token_is_no_token(token: Token, data: st.DataObject) -> None:
    text = str(token)
    cut = data.draw(st.integers(0, len(text) - 1))

    with pytest.raises(ConfigError, match="copy all of what"):
        parse_token(text[:cut])


@given(st.text())
def test_any_other_text_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_token(text)

    assert str(caught.value) == str(_refusal("")), "it may be half a secret"


@given(st.binary(max_size=80))
def test_bytes_are_read_back_from_their_text(value: bytes) -> None:
    assert bytes_of(text_of(value)) == value


@pytest.mark.parametrize("text", ["é", "=", "AA==", "AB", "A", "A A", "A\n"])
def test_a_text_that_stands_for_no_bytes_is_nothing(text: str) -> None:
    assert bytes_of(text) == b""


def test_a_fingerprint_is_shown_in_groups_that_can_be_compared() -> None:
    assert shown(bytes.fromhex("00ff10ab")) == "00ff 10ab"


REQUEST = JoinRequest(invite="0f1e2d3c", name="attic", host="10.0.0.2", port=13131, csr="pem")


@pytest.mark.parametrize(
    "changed", [{"invite": "0f1e2d3d"}, {"name": "b"}, {"host": "10.0.0.21"}, {"port": 3131}, {"csr": "m"}]
)
def test_the_signature_is_over_each_field(changed: dict[str, str | int]) -> None:
    assert msgspec.structs.replace(REQUEST, **changed).signed_bytes != REQUEST.signed_bytes


def test_what_is_signed_is_framed_so_that_nothing_moves_from_one_field_to_the_next() -> None:
    one = msgspec.structs.replace(REQUEST, name="a", host="bc")
    other = msgspec.structs.replace(REQUEST, name="ab", host="c")

    assert one.signed_bytes != other.signed_bytes


def _refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_token(text)
    return caught.value
