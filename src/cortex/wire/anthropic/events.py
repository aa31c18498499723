"""Anthropic's stream events as bytes, each with its `event:` line; the frequent ones are put together from pieces.

Source: the Anthropic API reference, "Streaming messages".
"""

from __future__ import annotations

from typing import Any

from cortex.wire import json

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
DELTA_END = b"}}\n\n"
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'


def event(kind: str, **fields: Any) -> bytes:
    """Return the event *kind* with *fields* as its data."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.encode({"type": kind, **fields}))


def block_start(index: int, block: dict[str, Any]) -> bytes:
    """Return the event that opens *block*."""
    return event("content_block_start", index=index, content_block=block)


def delta_start(index: int, kind: bytes, field: bytes) -> bytes:
    """Return a delta of *kind* up to the value of its *field*, a JSON string; DELTA_END follows that."""
    return _DELTA % (index, kind, field)


def signature(index: int, value: str) -> bytes:
    """Return the delta that signs a thinking block."""
    return delta_start(index, b"signature_delta", b"signature") + json.encode(value) + DELTA_END


def block_stop(index: int) -> bytes:
    """Return the event that closes a block."""
    return _STOP % index
