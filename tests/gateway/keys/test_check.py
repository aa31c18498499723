from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import AuthenticationFailed
from cortex.gateway.keys.check import (
    MAX_PROMPT_ESTIMATE_TOKENS,
    MAX_RESERVED_OUTPUT_TOKENS,
    model_filter,
    offered_key,
    permits,
    prompt_estimate,
    reservation,
)
from cortex.gateway.keys.entry import Scope

Headers = list[tuple[bytes, bytes]]


def bearer(value: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + value


def api_key(value: bytes) -> tuple[bytes, bytes]:
    return b"x-api-key", value


@pytest.mark.parametrize(
    "headers",
    [
        [bearer(b"ctx_1")],
        [(b"authorization", b"bearer  ctx_1 ")],
        [api_key(b"ctx_1")],
        [bearer(b"ctx_1"), api_key(b"ctx_1")],
        [bearer(b"sk-ant-placeholder"), api_key(b"ctx_1")],
        [api_key(b"dummy"), bearer(b"ctx_1")],
        [(b"authorization", b"Basic Y3R4XzI6"), api_key(b"ctx_1")],
        [(b"host", b"x"), (b"cookie", b"ctx_2"), bearer(b"ctx_1")],
    ],
)
def test_a_key_is_found_in_either_header_beside_what_is_none_of_ours(headers: Headers) -> None:
    assert offered_key(headers) == b"ctx_1"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([], "wants a key"),
        ([bearer(b"")], "wants a key"),
        ([bearer(b"sk-123")], "wants a key"),
        ([(b"authorization", b"ctx_1")], "wants a key"),
        ([(b"authorization", b"Basic ctx_1")], "wants a key"),
        ([(b"proxy-authorization", b"Bearer ctx_1")], "wants a key"),
        ([bearer(b"' OR 1=1--")], "wants a key"),
        ([bearer(b"\x00\xff\xfe")], "wants a key"),
        ([bearer(b"ctx_" + b"a" * 100_000)], "longer than any"),
        ([bearer(b"ctx_1"), api_key(b"ctx_2")], "two different keys"),
        ([api_key(b"ctx_2"), bearer(b"ctx_1")], "two different keys"),
        ([bearer(b"ctx_1"), bearer(b"ctx_2")], "two different keys"),
    ],
)
def test_no_key_and_two_keys_are_refused(headers: Headers, said: str) -> None:
    with pytest.raises(AuthenticationFailed, match=said):
        offered_key(headers)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_what_was_sent_is_never_repeated(one: bytes, two: bytes) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        offered_key([bearer(b"ctx_canary1" + one), api_key(b"ctx_canary2" + two)])

    assert "canary" not in f"{caught.value!r} {caught.value.message}"


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        ("inference", "inference", True),
        ("inference", "admin", False),
        ("admin", "inference", True),
        ("admin", "admin", True),
    ],
)
def test_admin_implies_inference_and_not_the_other_way_round(held: Scope, wanted: Scope, allowed: bool) -> None:
    assert permits(held, wanted) == allowed


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["qwen"], "qwen", True),
        (["qwen"], "qwen3", False),
        (["qwen"], "my-qwen", False),
        (["qwen*"], "qwen/3:Q4", True),
        (["*/small"], "org/small", True),
        (["*/small"], "org/smaller", False),
        (["a*b*c"], "a--b--c", True),
        (["a**c"], "abc", True),
        (["*"], "anything", True),
        (["a.b"], "axb", False),
        (["a", "b"], "b", True),
        (["a", "b"], "ab", False),
        (["qwen"], "qwen\n", False),
    ],
)
def test_patterns_match_whole_names(patterns: list[str], name: str, allowed: bool) -> None:
    matcher = model_filter(patterns)

    assert matcher is not None
    assert (matcher.match(name) is not None) == allowed


def test_no_patterns_allow_all() -> None:
    assert model_filter(()) is None


@pytest.mark.parametrize(
    ("body_bytes", "tokens"), [(0, 1), (3, 1), (4, 2), (4000, 1001), (64 << 20, MAX_PROMPT_ESTIMATE_TOKENS)]
)
def test_a_prompt_is_estimated_by_its_size_within_bounds(body_bytes: int, tokens: int) -> None:
    assert prompt_estimate(body_bytes) == tokens


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "tokens"),
    [
        (10, 5, 15),
        (10, None, 10 + MAX_RESERVED_OUTPUT_TOKENS),
        (10, 32_000, 10 + MAX_RESERVED_OUTPUT_TOKENS),
        (0, 0, 1),
        (-5, -5, 1),
    ],
)
def test_what_is_set_aside_is_the_prompt_and_a_bounded_answer(prompt: int, max_tokens: int | None, tokens: int) -> None:
    assert reservation(prompt, max_tokens) == tokens
