"""Decide who a request comes from and what it may use. Pure: no clock, no I/O, no logging."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cortex.core.errors import AuthenticationFailed
from cortex.gateway.keys.entry import Scope
from cortex.gateway.keys.secret import MAX_KEY_BYTES, PREFIX

MAX_RESERVED_OUTPUT_TOKENS = 8192
MAX_PROMPT_ESTIMATE_TOKENS = 131_072
BYTES_PER_TOKEN = 4

_PREFIX = PREFIX.encode()
_HOW = "send it as `Authorization: Bearer ctx_…` or `x-api-key: ctx_…`"


class NoKeyOffered(AuthenticationFailed):
    """The request carries no key at all; its sender may be known by other means."""


def offered_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the one key that *headers*, with names in lower case, offer. Raises NoKeyOffered, AuthenticationFailed.

    Clients may send `Authorization` and `x-api-key` at once, one of them with a placeholder or another service's key;
    what does not begin as a key of ours is passed over. Two different keys of ours are refused, valid or not: which of
    them is the caller must not depend on who reads the request.
    """
    key = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                continue
        elif name != b"x-api-key":
            continue
        value = value.strip()
        if not value.startswith(_PREFIX):
            continue
        if key is not None and value != key:
            raise AuthenticationFailed("the request carries two different keys; send one")
        key = value
    if key is None:
        raise NoKeyOffered(f"this gateway wants a key: {_HOW}")
    if len(key) > MAX_KEY_BYTES:
        raise AuthenticationFailed(f"the key is not valid: it is longer than any; {_HOW}")
    return key


def permits(held: Scope, wanted: Scope) -> bool:
    """Whether a key of scope *held* may do what *wanted* is for; admin implies inference."""
    return held in ("admin", wanted)


def model_filter(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """Return what matches the names that *patterns* allow, `*` standing for anything; None allows all."""
    alternatives = [".*".join(map(re.escape, re.split(r"\*+", pattern))) for pattern in patterns]
    return re.compile(f"(?:{'|'.join(alternatives)})\\Z") if alternatives else None


def prompt_estimate(body_bytes: int) -> int:
    """Return about how many tokens a request of *body_bytes* reads: at least 1, at most a long context's worth."""
    return min(1 + body_bytes // BYTES_PER_TOKEN, MAX_PROMPT_ESTIMATE_TOKENS)


def reservation(prompt_tokens: int, max_tokens: int | None) -> int:
    """Return the tokens to set aside for a request until its use is known.

    Coding agents ask for 32,000 tokens at each turn and take a few hundred. Setting all of that aside would leave a
    key one request at a time, so the answer's part is bounded; what an answer takes beyond it is paid when it ends.
    """
    prompt = prompt_tokens if prompt_tokens > 1 else 1
    if max_tokens is None or max_tokens > MAX_RESERVED_OUTPUT_TOKENS:
        return prompt + MAX_RESERVED_OUTPUT_TOKENS
    return prompt + max_tokens if max_tokens > 0 else prompt
