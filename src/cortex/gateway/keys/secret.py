"""A key as its holder has it, and the digest of it, which is all that is ever stored.

A key is 32 random bytes. A plain SHA-256 of it is enough: slow, salted hashes protect secrets that can be guessed, and
256 bits cannot; a fast one costs every request a third of a microsecond.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

PREFIX = "ctx_"
MAX_KEY_BYTES = 256
_ID_BYTES = 6
_SHOWN = re.compile(rf"{PREFIX}[A-Za-z0-9_-]+")


class Key:
    """A secret; it shows itself only when `reveal` is called."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Key(hidden)"

    def reveal(self) -> str:
        """Return the key itself, to be handed to its holder once."""
        return self._text

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""
        return digest_of(self._text.encode())


def new_key() -> Key:
    """Return a fresh key."""
    return Key(PREFIX + secrets.token_urlsafe(32))


def digest_of(key: bytes) -> bytes:
    """Return the SHA-256 of *key*."""
    return sha256(key).digest()


def handle_of(digest: bytes) -> bytes:
    """Return the part of *digest* that keys are found by; in hexadecimal it is the key's public id."""
    return digest[:_ID_BYTES]


def redacted(text: str) -> str:
    """Return *text* without the keys in it: somebody may paste one where it does not belong."""
    return _SHOWN.sub(f"{PREFIX}…", text)
