from __future__ import annotations

import re
from hashlib import sha256

from cortex.gateway.keys.secret import MAX_KEY_BYTES, Key, digest_of, handle_of, new_key, redacted


def test_a_key_is_recognised_by_its_prefix_and_holds_32_random_bytes() -> None:
    assert re.fullmatch(r"ctx_[A-Za-z0-9_-]{43}", new_key().reveal())
    assert len(new_key().reveal()) < MAX_KEY_BYTES


def test_no_two_keys_are_alike() -> None:
    assert len({new_key().reveal() for _ in range(100)}) == 100


def test_a_key_shows_itself_only_when_asked() -> None:
    key = Key("ctx_canary")

    assert "canary" not in f"{key} {key!r} {[key]} {vars(Key)}"


def test_what_is_kept_of_a_key_is_its_sha_256() -> None:
    key = new_key()

    assert key.digest == digest_of(key.reveal().encode()) == sha256(key.reveal().encode()).digest()
    assert key.digest.hex().startswith(handle_of(key.digest).hex())


def test_a_key_in_a_message_is_blotted_out() -> None:
    key = new_key().reveal()

    assert redacted(f"scope: {key!r} and {key}.") == "scope: 'ctx_…' and ctx_…."
    assert redacted("no such key: ctx_") == "no such key: ctx_"
