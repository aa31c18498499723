"""One `/api/chat` or `/api/generate` from its body to its last line: the seam of `wire.translation` for this dialect.

The last line has durations that only the node's trailer tells, so it is written by `end()` and not at `[DONE]`: the
caller says what it knows with `note_timings` before. NDJSON has no comments; a silence is filled with an empty piece,
which every client appends to what it has, and which cannot say what is being waited for.
"""

from __future__ import annotations

from typing import Literal

from cortex.core.errors import CortexError, UpstreamFailed
from cortex.wire.engine_api import Timings
from cortex.wire.errors import ErrorBody
from cortex.wire.hub_stream import Choice, Chunk, Delta, HubStream, HubUsage, decode_chunk
from cortex.wire.ollama.calls import Calls
from cortex.wire.ollama.errors import error_body
from cortex.wire.ollama.lines import Lines, Said, counts_of, unbroken
from cortex.wire.ollama.request import Request, read_chat_request, read_generate_request


def read_chat(body: bytes, *, created_at: float) -> OllamaTranslation:
    """Return the body of `POST /api/chat`, which came *created_at* seconds after 1970, as a translation.

    Raises BadRequest naming what is wrong.
    """
    request = read_chat_request(body)
    return OllamaTranslation(request, Lines(request.name, created_at, chat=True))


def read_generate(body: bytes, *, created_at: float) -> OllamaTranslation:
    """Return the body of `POST /api/generate`, which came *created_at* seconds after 1970, as a translation.

    Raises BadRequest naming what is wrong.
    """
    request = read_generate_request(body)
    return OllamaTranslation(request, Lines(request.name, created_at, chat=False))


class OllamaTranslation:
    """See `wire.translation.Translation`. *kind* is the hub's route that `body` is for.

    A request that `loads_only` has nothing for the hub: it is answered by `loaded()` once the model is there.
    `keep_loaded_seconds` is the client's wish for afterwards, if it has one: at 0 the caller may unload the model.
    """

    content_type = b"application/x-ndjson"

    def __init__(self, request: Request, lines: Lines) -> None:
        self.model, self.stream, self.body, self.ignored = request.model, request.stream, request.body, request.ignored
        self.kind, self.loads_only = request.kind, not request.body
        self.keep_loaded_seconds = request.keep_loaded_seconds
        self._shows_thinking, self._lines = request.shows_thinking, lines
        self._hub, self._calls = HubStream(), Calls()
        self._usage: HubUsage | None = None
        self._finish_reason: str | None = None
        self._timings: Timings | None = None
        self._load_ms = 0.0
        self._over = False

    def note_timings(self, timings: Timings | None, load_ms: float = 0.0) -> None:
        """Take what the last line, or the whole answer, says of time: the trailer's, and what a load took before it."""
        self._timings, self._load_ms = timings, load_ms

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the hub's stream, cut anywhere, and return the lines that it completes."""
        if self._over:
            return b""
        out = b""
        try:
            for chunk in self._hub.feed(data):
                if chunk.error is not None:
                    return out + self._fail(chunk.error)
                out += self._take(chunk)
        except UpstreamFailed as error:
            return out + self._fail(error)
        return out

    def end(self) -> bytes:
        """Return the lines that close a whole stream. One that never said why it finished was not whole, and fails."""
        if self._over:
            return b""
        if self._finish_reason is None:
            return self._fail(UpstreamFailed("the node's answer ended without a reason"))
        self._over = True
        rest = Said(self._calls.spoiled(), calls=self._calls.whole())
        told = self._lines.told(rest) if rest.text or rest.calls else b""
        return told + self._lines.last(Said(), self._finish_reason, self._counts())

    def fail(self, error: CortexError) -> bytes:
        """Return the line that ends a stream on *error*; nothing if it has ended."""
        return b"" if self._over else self._fail(error)

    def keep_alive(self, text: str) -> bytes:
        """Return an empty piece; nothing once the stream has ended."""
        return b"" if self._over else self._lines.text("")

    def whole(self, answer: bytes) -> bytes:
        """Return the hub's unary *answer* as one object. Raises UpstreamFailed if it cannot be read."""
        chunk = decode_chunk(answer)
        choice = chunk.choice()
        if choice is None or choice.finish_reason is None or (choice.message is None and choice.text is None):
            raise UpstreamFailed("the node's answer has no message that was finished")
        message = _delta_of(choice)
        self._usage = chunk.usage
        self._add_calls(message)
        said = Said(
            text=(message.content or "") + self._calls.spoiled(),
            thinking=(message.reasoning_content or "") if self._shows_thinking else "",
            calls=self._calls.whole(),
        )
        return self._lines.last(said, choice.finish_reason, self._counts())

    def loaded(self, reason: Literal["load", "unload"] = "load") -> bytes:
        """Return the answer to a request that `loads_only`: the model is there, or gone if that is what it asked."""
        self._over = True
        return self._lines.last(Said(), reason, {})

    def _take(self, chunk: Chunk) -> bytes:
        if chunk.usage is not None:
            self._usage = chunk.usage
        choice = chunk.choice()
        if choice is None:
            return b""
        self._finish_reason = choice.finish_reason or self._finish_reason
        delta, out = _delta_of(choice), b""
        if delta.reasoning_content and self._shows_thinking:
            out = self._lines.thinking(delta.reasoning_content)
        if delta.content:
            out += self._lines.text(delta.content)
        if delta.tool_calls:
            self._add_calls(delta)
        return out

    def _add_calls(self, delta: Delta) -> None:
        for place, call in enumerate(delta.tool_calls or ()):
            self._calls.add(place if call.index is None else call.index, call)

    def _counts(self) -> dict[str, int]:
        return counts_of(self._usage, self._timings, self._load_ms)

    def _fail(self, error: CortexError | ErrorBody) -> bytes:
        self._over = True
        return unbroken(error_body(error)) + b"\n"


def _delta_of(choice: Choice) -> Delta:
    """Return the piece, or the whole, that *choice* is; a completion's is text alone."""
    return choice.delta or choice.message or Delta(choice.text)
