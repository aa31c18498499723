"""What tells two requests of one conversation: its session key, and a chain of hashes over its messages.

Both are hints for finding the replica that has a prompt cached, never an identity to trust.

Source: what Claude Code, Codex and opencode were seen to send; `prompt_cache_key` of the OpenAI API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import msgspec

SESSION_HEADERS = (b"x-claude-code-session-id", b"x-session-affinity", b"x-session-id", b"thread-id", b"session-id")
MAX_KEY_LENGTH = 512
FIRST_LINKS, LAST_LINKS = 32, 32
WHOLE_BYTES, TEXT_PIECE_BYTES = 4096, 2048

Piece = msgspec.Raw | bytes
Chain = tuple[tuple[int, int], ...]
"""For each leading part of a prompt, the shortest first: its hash, and its length in bytes. The last is all of it."""


class Metadata(msgspec.Struct):
    """Whose request it is, in Anthropic's words."""

    user_id: str | None = None


class Prompt(msgspec.Struct):
    """The parts of a body, of any dialect, that make up the prompt, unread; and the keys of its session."""

    messages: list[msgspec.Raw] | None = None
    input: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    prompt_cache_key: str | None = None
    metadata: Metadata | None = None


_prompt = msgspec.json.Decoder(Prompt)
_items = msgspec.json.Decoder(list[msgspec.Raw])


def read_prompt(body: bytes) -> Prompt:
    """Return the prompt of *body*; an empty one if it cannot be read, for others to complain of."""
    try:
        return _prompt.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Prompt()


def session_key(header: Callable[[bytes], bytes | None], prompt: Prompt) -> str | None:
    """Return what the client calls its session, or None; *header* finds a header's value by its lower-case name.

    `metadata.user_id` counts only where it names a session, as Claude Code's does: one user has many conversations.
    """
    for name in SESSION_HEADERS:
        value = header(name)
        if value and len(value) <= MAX_KEY_LENGTH:
            return value.decode("latin-1")
    key = prompt.prompt_cache_key
    if not key and prompt.metadata is not None and "session" in (prompt.metadata.user_id or ""):
        key = prompt.metadata.user_id
    return key if key and len(key) <= MAX_KEY_LENGTH else None


def message_chain(prompt: Prompt) -> Chain:
    """Return the chain over the leading messages of *prompt*: what is set before them, then one link a message.

    A text is cut into pieces of 2 KiB instead. Of more than 64 links the first and the last 32 are kept: forks are near
    the start, continuations near the end. Hashes hold within this process. Of a message larger than 4 KiB only its ends
    and its length are hashed.
    """
    links: list[tuple[int, int]] = []
    value = size = 0
    for piece in _pieces(prompt):
        length = len(memoryview(piece))
        value = _hashed(piece, length, value)
        size += length
        links.append((value, size))
    return tuple(links if len(links) <= FIRST_LINKS + LAST_LINKS else links[:FIRST_LINKS] + links[-LAST_LINKS:])


def _pieces(prompt: Prompt) -> list[Piece]:
    """Return the pieces of *prompt* in the order in which a template sets them."""
    pieces: list[Piece] = [piece for piece in (prompt.system, prompt.instructions, prompt.tools) if piece]
    pieces += prompt.messages or ()
    if prompt.input:
        pieces += _items_of(bytes(prompt.input))
    if prompt.prompt:
        pieces += _cut(bytes(prompt.prompt))
    return pieces


def _items_of(raw: bytes) -> Sequence[Piece]:
    """Return the items of a Responses request; anything else that is called input is cut as a text."""
    try:
        return _items.decode(raw) if raw.startswith(b"[{") else _cut(raw)
    except (msgspec.MsgspecError, RecursionError):
        return ()


def _cut(text: bytes) -> Sequence[Piece]:
    return [text[at : at + TEXT_PIECE_BYTES] for at in range(0, len(text), TEXT_PIECE_BYTES)]


def _hashed(piece: Piece, length: int, value: int) -> int:
    """Return the hash of *piece*, so many bytes long, after what hashed to *value*."""
    if length <= WHOLE_BYTES:
        return hash((crc32(piece, value), length, value))
    view, half = memoryview(piece), WHOLE_BYTES // 2
    return hash((crc32(view[-half:], crc32(view[:half], value)), length, value))
