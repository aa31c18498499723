"""Server-sent events as the relay needs them: whole events through, the node's trailer out.

A node ends each stream with one comment line, which every SSE client ignores by specification:

    : cortex {"usage":{…},"timings":{…}}

`EventRelay` forwards complete events as they come, without parsing them, and takes that line out. A stream that ends
without it was cut short, however cleanly its transport was closed.
"""

from __future__ import annotations

import msgspec

from cortex.core.errors import UpstreamFailed
from cortex.wire.engine_api import Timings, Usage

KEEP_ALIVE = b": keep-alive\n\n"
_MARK = b": cortex "
_DONE = b"data: [DONE]\n\n"
_LINE_MARK = b"\n: cortex "
MAX_HELD_BYTES = 16 << 20


class Trailer(msgspec.Struct, omit_defaults=True):
    """What a node knows of a finished request: exact token counts, and where the time went.

    *error_code* is that of the error which a stream ended in.
    """

    usage: Usage
    timings: Timings
    finish_reason: str | None = None
    error_code: str | None = None


_trailer = msgspec.json.Decoder(Trailer)
_encoder = msgspec.json.Encoder()


def data_event(payload: bytes) -> bytes:
    """Return *payload*, one JSON value, as an event."""
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """Return a comment: it keeps the connection alive and means nothing to a client."""
    return b": " + text.encode().replace(b"\n", b" ").replace(b"\r", b" ") + b"\n\n"


def trailer_event(trailer: Trailer) -> bytes:
    """Return *trailer* as the comment that ends a node's stream."""
    return _MARK + _encoder.encode(trailer) + b"\n\n"


def encode_trailer(trailer: Trailer) -> bytes:
    """Return *trailer* as the value of the header that a unary answer carries."""
    return _encoder.encode(trailer)


def decode_trailer(raw: bytes) -> Trailer | None:
    """Return the trailer in *raw*, or None if it is not one."""
    try:
        return _trailer.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class EventRelay:
    """Pass whole events on and keep the trailer back: `feed(bytes) -> bytes`."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.trailer: Trailer | None = None
        self.saw_data = False

    def feed(self, data: bytes) -> bytes:
        """Return what of *data*, and of what was held before, the client may have now."""
        if not self._held and data.endswith(b"\n\n") and _MARK not in data and not data.endswith(_DONE):
            if not self.saw_data:
                self.saw_data = data.startswith(b"data:") or b"\ndata:" in data
            return data
        return self._slow(data)

    def _slow(self, data: bytes) -> bytes:
        held, searched = self._held, max(0, len(self._held) - 1)
        held += data
        end = held.rfind(b"\n\n", searched)
        if end < 0:
            if len(held) > MAX_HELD_BYTES:
                raise UpstreamFailed(f"an event of the node is larger than {MAX_HELD_BYTES} bytes")
            return b""
        whole = bytes(held[: end + 2])
        del held[: end + 2]
        at = 0 if whole.startswith(_MARK) else whole.find(_LINE_MARK) + 1
        if at > 0 or whole.startswith(_MARK):
            line_end = whole.index(b"\n", at)
            self.trailer = decode_trailer(whole[at + len(_MARK) : line_end])
            whole = whole[:at] + whole[line_end + 2 :]
        elif whole.endswith(_DONE):
            # A success is told only once the trailer proves it: a stream cut right here was not whole.
            whole, held[:0] = whole[: -len(_DONE)], _DONE
        self.saw_data = self.saw_data or whole.startswith(b"data:") or b"\ndata:" in whole
        return whole
