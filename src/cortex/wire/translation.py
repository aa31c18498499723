"""The seam of every dialect that is not the hub's: a request on its way to OpenAI chat, and its answer on the way back.

Sans-I/O: a translation is made from the client's body, gives the hub's body, and is fed what the hub answers.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from cortex.core.errors import CortexError

# A node opens a translated stream with this comment once the prompt is counted, before the first chunk.
OPENING_MARK = b": cortex-start "


class Opening(msgspec.Struct):
    """What a node knows of a request when its prefill begins."""

    prompt_tokens: int
    cached_tokens: int = 0


_opening = msgspec.json.Decoder(Opening)
_encoder = msgspec.json.Encoder()


def opening_comment(opening: Opening) -> bytes:
    """Return *opening* as the comment that begins a stream; clients of the hub dialect never see it."""
    return OPENING_MARK + _encoder.encode(opening) + b"\n\n"


def decode_opening(line: bytes) -> Opening | None:
    """Return what the comment *line* says, or None if it is another comment."""
    return _opening.decode(line[len(OPENING_MARK) :]) if line.startswith(OPENING_MARK) else None


class Translation(Protocol):
    """One request in a client's dialect. `body` is the hub's request; a streamed one asks the hub for usage.

    `content_type` is that of its stream.
    """

    model: str
    stream: bool
    body: bytes
    ignored: tuple[str, ...]
    content_type: bytes

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the hub's stream, cut anywhere, and return the client's events that it completes.

        The hub's stream is `data:` events of chunks, a usage chunk, then `[DONE]`; comments lie between, one of which
        may be an `Opening`. An error event of the hub becomes the dialect's own, and nothing follows it.
        """
        ...

    def end(self) -> bytes:
        """Return the events that close a stream which was whole; nothing if it failed or has been closed."""
        ...

    def fail(self, error: CortexError) -> bytes:
        """Return the events that end a stream on *error*: nothing in them looks like success."""
        ...

    def keep_alive(self, text: str) -> bytes:
        """Return what fills a silence; *text* says what is being waited for."""
        ...

    def whole(self, answer: bytes) -> bytes:
        """Return the hub's unary *answer* in the dialect's shape."""
        ...
