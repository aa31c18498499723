"""The hub's stream as Anthropic's events: from the first chunk to `message_stop`, or to one `error`.

`message_start` goes out with the first chunk, not before: until there is something of an answer, another replica may
still give it. Its `input_tokens` are those of the `Opening`, or 0 without one; `message_delta` has the exact ones.
"""

from __future__ import annotations

from cortex.core.errors import CortexError, UpstreamFailed
from cortex.wire.anthropic.answer import message_head, stop_of, usage_object
from cortex.wire.anthropic.blocks import Blocks
from cortex.wire.anthropic.errors import described, error_body
from cortex.wire.anthropic.events import MESSAGE_STOP, event
from cortex.wire.anthropic.thinking import Display
from cortex.wire.hub_stream import Choice, Chunk, Delta, HubStream, HubUsage


class Stream:
    """One stream: feed it, then `end` it, or `fail` it."""

    def __init__(self, model: str, stops: frozenset[str], display: Display) -> None:
        self._model, self._stops = model, stops
        self._shows_thinking = display is not Display.NOTHING
        self._blocks = Blocks(display)
        self._hub = HubStream()
        self._usage: HubUsage | None = None
        self._finish: Choice | None = None
        self._started = False
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the hub's stream, cut anywhere, and return the events that it completes."""
        out = b""
        if self.over:
            return out
        try:
            for chunk in self._hub.feed(data):
                out += self._take(chunk)
                if self.over:
                    return out
        except UpstreamFailed as error:
            return out + self.fail(error)
        return out + self.end() if self._hub.done else out

    def end(self) -> bytes:
        """Return the events that close the message; an error if the hub never said why it ended."""
        if self.over:
            return b""
        if self._finish is None or self._finish.finish_reason is None:
            return self.fail(UpstreamFailed("the node's answer ended without a reason"))
        self.over = True
        blocks = self._blocks.finish()
        reason, stop = stop_of(
            self._finish.finish_reason, self._finish.stop_reason, self._stops, called=self._blocks.called
        )
        last = event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": stop},
            usage=usage_object(self._usage, self._hub.opening),
        )
        return blocks + last + MESSAGE_STOP

    def fail(self, error: CortexError) -> bytes:
        """Return the `error` event; nothing follows it, and nothing comes of a stream that has ended."""
        if self.over:
            return b""
        self.over = True
        return b"event: error\ndata: " + error_body(error) + b"\n\n"

    def _take(self, chunk: Chunk) -> bytes:
        if chunk.error is not None:
            return self.fail(described(chunk.error))
        if chunk.usage is not None:
            self._usage = chunk.usage
        out = b"" if self._started else self._start(chunk)
        choice = chunk.choice()
        if choice is not None:
            if choice.finish_reason is not None:
                self._finish = choice
            if choice.delta is not None:
                out += self._delta(choice.delta)
        return out

    def _start(self, chunk: Chunk) -> bytes:
        self._started = True
        message = {
            **message_head(chunk.id, chunk.model or self._model),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(None, self._hub.opening),
        }
        return event("message_start", message=message)

    def _delta(self, delta: Delta) -> bytes:
        out = b""
        if delta.reasoning_content and self._shows_thinking:
            out = self._blocks.thinking(delta.reasoning_content)
        if delta.content:
            out += self._blocks.text(delta.content)
        for place, call in enumerate(delta.tool_calls or ()):
            out += self._blocks.call(place if call.index is None else call.index, call)
        return out
