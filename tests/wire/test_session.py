from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.json import encode
from cortex.wire.session import FIRST_LINKS, LAST_LINKS, Chain, message_chain, read_prompt, session_key

SYSTEM = {"role": "system", "content": "You are a careful assistant."}


def key_of(headers: Mapping[bytes, bytes] | None = None, **body: Any) -> str | None:
    return session_key((headers or {}).get, read_prompt(encode(body)))


def no_header(_: bytes) -> bytes | None:
    return None


def chain_of(**body: Any) -> Chain:
    return message_chain(read_prompt(encode({"model": "m", **body})))


def said(count: int, text: str = "message") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{text} {at}"} for at in range(count)]


def common(one: Chain, other: Chain) -> int:
    """Return the bytes of the longest part that both chains know."""
    return max((size for value, size in set(one) & set(other)), default=0)


@pytest.mark.parametrize(
    "name", [b"x-claude-code-session-id", b"x-session-affinity", b"x-session-id", b"thread-id", b"session-id"]
)
def test_agents_name_their_session_in_a_header(name: bytes) -> None:
    assert key_of({name: b"0198-ab"}) == "0198-ab"


def test_a_header_comes_before_the_body_and_an_empty_one_is_none() -> None:
    assert key_of({b"session-id": b"mine"}, prompt_cache_key="cache") == "mine"
    assert key_of({b"session-id": b""}, prompt_cache_key="cache") == "cache"


def test_a_cache_key_names_a_session() -> None:
    assert key_of(messages=[SYSTEM], prompt_cache_key="cache", metadata={"user_id": "session"}) == "cache"
    assert key_of(prompt_cache_key="", metadata={}) is None


def test_a_user_id_counts_only_where_it_names_a_session() -> None:
    agent = '{"device_id":"d","account_uuid":"","session_id":"0198"}'

    assert key_of(metadata={"user_id": agent}) == agent
    assert key_of(metadata={"user_id": "user_1_account__session_0198"}) == "user_1_account__session_0198"
    assert key_of(metadata={"user_id": "alice"}) is None
    assert key_of(user="alice", metadata=None) is None


def test_a_key_of_any_bytes_is_text_and_one_too_long_is_none() -> None:
    assert key_of({b"session-id": b"\xff\xfe"}) == "\xff\xfe"
    assert key_of({b"session-id": b"x" * 600}, prompt_cache_key="y" * 600) is None


def test_a_chain_has_a_link_for_each_message_and_ends_with_all_of_them() -> None:
    chain = chain_of(messages=[SYSTEM, *said(3)])

    sizes = [size for _, size in chain]
    assert len(chain) == 4
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == sum(len(encode(message)) for message in [SYSTEM, *said(3)])


@pytest.mark.parametrize("field", ["messages", "input"])
def test_the_next_turn_begins_with_the_chain_of_this_one(field: str) -> None:
    now, then = chain_of(**{field: said(5)}), chain_of(**{field: said(7)}, stream=True)

    assert then[:5] == now
    assert common(now, then) == now[-1][1]


def test_what_differs_early_differs_from_there_on() -> None:
    one, other = chain_of(messages=[SYSTEM, *said(3)]), chain_of(messages=[SYSTEM, *said(3, "massage")])

    assert common(one, other) == one[0][1]
    assert [size for _, size in one] == [size for _, size in other]


@pytest.mark.parametrize("field", ["system", "instructions", "tools"])
def test_what_a_template_sets_before_the_messages_comes_first(field: str) -> None:
    plain = chain_of(messages=said(2))
    one, other = chain_of(messages=said(2), **{field: ["one"]}), chain_of(messages=said(2), **{field: ["two"]})

    assert len(one) == len(plain) + 1
    assert common(one, other) == common(one, plain) == 0


def test_the_border_between_messages_counts() -> None:
    assert common(chain_of(messages=[["ab"], ["c"]]), chain_of(messages=[["a"], ["bc"]])) == 0


@pytest.mark.parametrize("field", ["prompt", "input"])
def test_a_text_that_goes_on_begins_with_the_chain_of_its_start(field: str) -> None:
    text = "".join(f"line {at}\n" for at in range(2000))

    now, then = chain_of(**{field: text[:9000]}), chain_of(**{field: text})

    assert 6000 < common(now, then) <= now[-1][1]
    assert chain_of(**{field: [1, 2, 3]})
    assert common(now, chain_of(**{field: "other" + text})) == 0


def test_of_a_long_conversation_both_ends_are_known() -> None:
    now, then = chain_of(messages=said(198)), chain_of(messages=said(200))

    assert len(then) == FIRST_LINKS + LAST_LINKS
    assert then[-1][1] == sum(len(encode(message)) for message in said(200))
    assert then[:FIRST_LINKS] == chain_of(messages=said(FIRST_LINKS))
    assert common(now, then) == now[-1][1]


def test_a_large_message_counts_by_its_ends_and_its_length() -> None:
    image = "data:image/png;base64," + "A" * 100_000

    chain = chain_of(messages=[image, "what is this?"])

    assert chain == chain_of(messages=[image, "what is this?"])
    assert chain[0][1] == len(image) + 2
    for changed in (image + "A", "D" + image[1:], image[:-1] + "B"):
        assert common(chain, chain_of(messages=[changed, "what is this?"])) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": "text"}',
        b'{"messages": null}',
        b'{"messages": []}',
        b'{"messages": [1',
        b'{"input": [{"a": }]}',
        b'{"metadata": 1, "messages": [1]}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"prompt_cache_key": "\xff"}',
        b'\xff\xfe{"messages": [1]}',
    ],
)
def test_a_body_that_cannot_be_read_has_no_chain_and_no_key(body: bytes) -> None:
    prompt = read_prompt(body)

    assert message_chain(prompt) == ()
    assert session_key(no_header, prompt) is None


@given(st.binary(max_size=200))
def test_no_body_is_an_error_here(body: bytes) -> None:
    prompt = read_prompt(body)

    assert isinstance(message_chain(prompt), tuple)
    assert session_key(no_header, prompt) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["messages", "input", "prompt", "system", "instructions", "tools", "prompt_cache_key", "metadata"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_whatever_the_fields_hold_the_chain_grows_and_covers_them(body: dict[str, Any]) -> None:
    raw = encode(body)

    sizes = [size for _, size in message_chain(read_prompt(raw))]

    assert sizes == sorted(sizes)
    assert not sizes or 0 < sizes[-1] <= len(raw)


@given(st.lists(JSON, min_size=1, max_size=80), st.lists(JSON, min_size=1, max_size=30))
def test_every_next_turn_knows_all_of_the_one_before(before: list[Any], more: list[Any]) -> None:
    now, then = chain_of(messages=before), chain_of(messages=before + more)

    assert common(now, then) >= now[-1][1]
