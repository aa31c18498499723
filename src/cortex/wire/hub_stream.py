"""The hub's stream as the other dialects read it: cut into lines, each chunk decoded to what an event is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cortex.core.errors import UpstreamFailed
from cortex.wire.errors import ErrorBody
from cortex.wire.sse import MAX_HELD_BYTES
from cortex.wire.translation import Opening, decode_opening


class Function(msgspec.Struct, gc=False):
    """What a call is of, or a piece of its arguments."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    """A tool call, whole or a piece of it. Where the hub says no `index`, it is the call's place in the list."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None

    @property
    def name(self) -> str:
        """The tool's name, or nothing if this piece does not say it."""
        return (self.function.name if self.function else None) or ""

    @property
    def arguments(self) -> str:
        """The arguments, or what this piece has of them."""
        return (self.function.arguments if self.function else None) or ""


class Delta(msgspec.Struct):
    """A message, whole or a piece of it."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities of the tokens of a piece."""

    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """One of the answers: `delta` is a chat stream's, `message` a whole chat's, `text` a completion's of either kind.

    `stop_reason` is what vLLM says of the stop string that matched.
    """

    index: int = 0
    delta: Delta | None = None
    message: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: Logprobs | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """`usage.prompt_tokens_details`."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """`usage.completion_tokens_details`."""

    reasoning_tokens: int | None = None


class HubUsage(msgspec.Struct):
    """`usage`, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were read from the cache."""
        return (self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None) or 0

    @property
    def reasoning_tokens(self) -> int:
        """How many of the answer's tokens were reasoning, if the engine tells them apart."""
        return (self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else None) or 0


class Chunk(msgspec.Struct):
    """A chunk of a stream, a whole answer, or an error in their place."""

    id: str = ""
    model: str = ""
    choices: list[Choice] = []
    usage: HubUsage | None = None
    error: ErrorBody | None = None

    def choice(self) -> Choice | None:
        """Return the one answer that a dialect without choices has, or None if this is no piece of it."""
        for choice in self.choices:
            if choice.index == 0:
                return choice
        return None


_chunk = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes) -> Chunk:
    """Return the chunk, or whole answer, in *data*. Raises UpstreamFailed."""
    try:
        return _chunk.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(f"the node sent an answer that could not be read: {error}") from None


class HubStream:
    """Read the hub's stream: `feed(bytes) -> chunks`.

    `opening` is what the node said as it began on the prompt; `done` tells that `[DONE]` was read, which ends all.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.opening: Opening | None = None
        self.done = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Return the chunks that *data* completes, in order. Raises UpstreamFailed, also while they are taken."""
        if b"\n" not in data:
            self._hold(data)
            return iter(())
        if self._held:
            data = bytes(self._held + data)
            self._held.clear()
        *lines, rest = data.split(b"\n")
        if rest:
            self._hold(rest)
        return self._chunks(lines)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > MAX_HELD_BYTES:
            raise UpstreamFailed(f"an event of the node is larger than {MAX_HELD_BYTES} bytes")

    def _chunks(self, lines: list[bytes]) -> Iterator[Chunk]:
        for line in lines:
            if self.done:
                return
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    self.done = True
                else:
                    yield decode_chunk(payload)
            elif line:
                self.opening = _opening(line) or self.opening


def _opening(line: bytes) -> Opening | None:
    try:
        return decode_opening(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailed(f"the node opened its answer with what could not be read: {error}") from None
