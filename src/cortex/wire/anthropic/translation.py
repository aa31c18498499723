"""One `POST /v1/messages` from its body to its last event: the seam of `wire.translation` for this dialect."""

from __future__ import annotations

from cortex.core.errors import CortexError
from cortex.wire.anthropic.answer import read_answer
from cortex.wire.anthropic.events import PING
from cortex.wire.anthropic.request import HubRequest, read_request
from cortex.wire.anthropic.stream import Stream
from cortex.wire.anthropic.thinking import display_of
from cortex.wire.sse import comment


class Messages:
    """A request in Anthropic's dialect, and its answer on the way back."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, request: HubRequest) -> None:
        asked = request.asked
        self.model, self.stream = asked.model, bool(asked.stream)
        self.body, self.ignored = request.body, request.ignored
        self._stops = frozenset(asked.stop_sequences or ())
        self._display = display_of(asked.thinking)
        self._events = Stream(asked.model, self._stops, self._display)

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the hub's stream, cut anywhere, and return the events that it completes."""
        return self._events.feed(data)

    def end(self) -> bytes:
        """Return the events that close a stream which was whole; nothing if it failed or has been closed."""
        return self._events.end()

    def fail(self, error: CortexError) -> bytes:
        """Return the event that ends a stream on *error*; nothing if it has ended."""
        return self._events.fail(error)

    def keep_alive(self, text: str) -> bytes:
        """Return a `ping` with *text* as a comment before it; nothing once the stream has ended."""
        return b"" if self._events.over else comment(text) + PING

    def whole(self, answer: bytes) -> bytes:
        """Return the hub's unary *answer* as a message. Raises UpstreamFailed if it cannot be read."""
        return read_answer(answer, self.model, self._stops, self._display)


def read_messages(body: bytes) -> Messages:
    """Return the translation of the body of `POST /v1/messages`. Raises BadRequest naming what is wrong."""
    return Messages(read_request(body))
