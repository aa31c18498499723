"""Thinking blocks to and from `reasoning_content`: which are shown, what their signatures are, what is read back.

A block is shown if the client asked for thinking (`enabled`, `adaptive`). Absent or `disabled` means that none is: a
client that reads `content[0].text` must find its text there, though the model may have reasoned.

A signature proves nothing here. A client's history is its own, so whatever text a block has is read back as reasoning,
whoever signed it. Ours is a digest of the text, for clients demand one; with `display: omitted` the block goes out
without its text, and the signature carries it, so that the model still has its reasoning in the next turn.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from enum import Enum
from hashlib import blake2b

from cortex.wire.anthropic.schema import Thinking

_SIGNED, _SEALED = "ctx1.", "ctx2."
MAX_SEALED_BYTES = 4 << 20


class Display(Enum):
    """How much of the model's reasoning the client sees."""

    NOTHING = "nothing"
    TEXT = "text"
    SEALED = "sealed"


def display_of(asked: Thinking | None) -> Display:
    """Return what the client's `thinking` asks to see."""
    if asked is None or asked.type == "disabled":
        return Display.NOTHING
    return Display.SEALED if asked.display == "omitted" else Display.TEXT


def shown(text: str, display: Display) -> str:
    """Return what of *text* a block has in the clear."""
    return text if display is Display.TEXT else ""


def signature_of(text: str, display: Display) -> str:
    """Return the signature of a block that was *text*: a digest of it, or all of it if it is not shown."""
    raw = text.encode()
    if display is Display.SEALED:
        return _SEALED + urlsafe_b64encode(zlib.compress(raw)).decode()
    return _SIGNED + urlsafe_b64encode(blake2b(raw, digest_size=24).digest()).decode()


def recalled(text: str, signature: str) -> str:
    """Return the reasoning that a block of the client's history stands for; nothing if it cannot be read."""
    if text or not signature.startswith(_SEALED):
        return text
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(urlsafe_b64decode(signature[len(_SEALED) :]), MAX_SEALED_BYTES)
        return raw.decode() if inflate.eof else ""
    except (ValueError, zlib.error):
        return ""
