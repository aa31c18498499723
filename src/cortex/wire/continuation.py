"""Go on with an answer that was cut off: what has gone out of it, the request for the rest, and how the rest joins on.

The rest is asked for with the text so far as the assistant's last message, left open (`continue_final_message`, vLLM's
name for it). Tokens do not always begin where a text is cut, so with greedy sampling the last word is left to be said
again, compared with what the client has, and kept back: the joined text is then the one that an undisturbed engine
gives. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec

from cortex.core.errors import BadRequest, CortexError, UpstreamFailed
from cortex.wire import json
from cortex.wire.engine_api import Usage
from cortex.wire.errors import Envelope, RemoteError
from cortex.wire.openai import CHAT, COMPLETION
from cortex.wire.sse import data_event

# So many bytes of events are kept as they came before they are read; most answers never come to it.
UNREAD_BYTES = 16 << 10
# A last word of more pieces than this is not said again.
LAST_PIECES = 16
_ERROR = b'data: {"error"'
_DATA = b"data: "
_END = b"\n\n"
_DONE = b"[DONE]"


class CannotContinue(Exception):
    """This answer cannot be gone on with; the text says why."""


class RestDiffers(UpstreamFailed):
    """The replica that went on did not say the last word again as the client has it."""


class Head(msgspec.Struct, frozen=True):
    """What all chunks of one answer have in common."""

    id: str = ""
    created: int = 0
    model: str = ""


class _Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta = _Delta()
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: tuple[_Choice, ...] = ()


_chunk = msgspec.json.Decoder(_Chunk)
_chunks = msgspec.json.Decoder(list[_Chunk])
_head = msgspec.json.Decoder(Head)
_error = msgspec.json.Decoder(Envelope)
_fields = msgspec.json.Decoder(dict[str, Any])


class Kept:
    """What has gone out of one answer. `take(events) -> events`; an error event of the node's is kept back: `error`."""

    def __init__(self) -> None:
        self.error: CortexError | None = None
        self.pieces = 0
        self.last: deque[str] = deque(maxlen=LAST_PIECES)
        self.head: Head | None = None
        self._text: list[str] = []
        self._obstacle = ""
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    def take(self, events: bytes) -> bytes:
        """Remember whole *events*, and return what of them the client may have."""
        if _ERROR in events:
            events = self._without_error(events)
        self._unread.append(events)
        self._unread_bytes += len(events)
        if self._unread_bytes > UNREAD_BYTES:
            self._read()
        return events

    def _without_error(self, events: bytes) -> bytes:
        """Keep back the error event in *events*, if that is one and no text that looks like it."""
        at = 0 if events.startswith(_ERROR) else events.find(b"\n" + _ERROR) + 1
        if at or events.startswith(_ERROR):
            self.error = _error_in(events[at:])
            return events[:at]
        return events

    @property
    def begun(self) -> bool:
        """Whether any chunk of it has gone out."""
        self._read()
        return self.head is not None or bool(self._obstacle)

    @property
    def text(self) -> str:
        """All that was said. Raises CannotContinue when that is not all there is to the answer."""
        self._read()
        if self._obstacle:
            raise CannotContinue(self._obstacle)
        self._text[:] = ["".join(self._text)]
        return self._text[0]

    def _read(self) -> None:
        events = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self.head is not None and self._read_at_once(events):
            return
        for line in events.split(b"\n"):
            if line.startswith(_DATA) and line[len(_DATA) :] != _DONE:
                self._read_one(line[len(_DATA) :])

    def _read_at_once(self, events: bytes) -> bool:
        """Read *events* as one array if they are nothing but chunks, and return whether they were."""
        if not events.startswith(_DATA):
            return False
        try:
            chunks = _chunks.decode(b"[%b]" % events[len(_DATA) : -len(_END)].replace(_END + _DATA, b","))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        for chunk in chunks:
            self._take_in(chunk)
        return True

    def _read_one(self, data: bytes) -> None:
        try:
            chunk = _chunk.decode(data)
            if self.head is None:
                self.head = _head.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._obstacle = f"a chunk could not be read: {error}"
            return
        self._take_in(chunk)

    def _take_in(self, chunk: _Chunk) -> None:
        for choice in chunk.choices:
            piece = choice.delta.content or choice.text
            if piece and not choice.index:
                self._text.append(piece)
                self.last.append(piece)
                self.pieces += 1
            if choice.index or choice.finish_reason or choice.delta.reasoning_content or choice.delta.tool_calls:
                self._obstacle = self._obstacle or _obstacle(choice)


def _obstacle(choice: _Choice) -> str:
    """Return what in a piece of an answer stands in the way of going on with it."""
    if choice.index:
        return "it has several choices"
    if choice.delta.tool_calls:
        return "a tool call is in progress"
    if choice.delta.reasoning_content:
        return "it has reasoning, which no engine takes up again"
    return "it has ended" if choice.finish_reason else ""


def _error_in(event: bytes) -> CortexError:
    line = event.partition(b"\n")[0]
    try:
        return RemoteError(500, _error.decode(line[len(_DATA) :]).error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return UpstreamFailed("the node ended its answer with an error that could not be read")


@dataclass(frozen=True, slots=True)
class Rest:
    """The request for the rest of an answer; `overlap` is what is to be said again, after `pieces` of the answer."""

    body: bytes
    head: Head
    overlap: str
    pieces: int


def rest_of(path: str, body: bytes, kept: Kept, *, exact: bool = False) -> Rest:
    """Return the request for what is missing of the answer to *body*, of which *kept* has gone out.

    With *exact* nothing is said again. Raises CannotContinue.
    """
    text = kept.text
    fields = _decoded(body)
    if kept.head is None:
        raise CannotContinue("nothing of it has gone out")
    _check(path, fields)
    overlap, again = ("", 0) if exact or fields.get("temperature") != 0 else _last_word(kept.last)
    pieces = kept.pieces - again
    said = text[: len(text) - len(overlap)]
    for name in ("max_tokens", "max_completion_tokens"):
        if fields.get(name) is not None:
            fields[name] -= pieces
            if fields[name] < 1:
                raise CannotContinue("its last token is out")
    if path == CHAT:
        fields["messages"] = _continued(fields["messages"], said)
        fields["continue_final_message"] = True
    else:
        fields["prompt"] += said
    return Rest(json.encode(fields), kept.head, overlap, pieces)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        return json.decode(body, _fields)
    except BadRequest as error:
        raise CannotContinue(str(error)) from None


def _check(path: str, fields: dict[str, Any]) -> None:
    """Raise CannotContinue for a request whose answer has no one text that could be gone on with."""
    wanted = fields.get("response_format")
    if path not in (CHAT, COMPLETION):
        raise CannotContinue("it is no text")
    if (fields.get("n") or 1) != 1:
        raise CannotContinue("it has several choices")
    if isinstance(wanted, dict) and wanted.get("type") not in (None, "text"):
        raise CannotContinue("it is bound to a schema from its first character")
    if path == COMPLETION and (not isinstance(fields.get("prompt"), str) or fields.get("echo")):
        raise CannotContinue("its prompt is not one text")


def _last_word(last: deque[str]) -> tuple[str, int]:
    """Return the last word with the space before it, and of how many pieces it is; nothing where no piece begins it."""
    word = ""
    for count, piece in enumerate(reversed(last), 1):
        word = piece + word
        if word[0].isspace() and not word.isspace():
            return word, count
    return "", 0


def _continued(messages: list[dict[str, Any]], said: str) -> list[dict[str, Any]]:
    """Return *messages* with an assistant's at the end that begins with *said*, or goes on with it."""
    *earlier, last = messages
    if last.get("role") != "assistant":
        return [*messages, {"role": "assistant", "content": said}]
    if not isinstance(last.get("content"), str):
        raise CannotContinue("its request ends in an answer that is not one text")
    return [*earlier, {**last, "content": last["content"] + said}]


class Joined:
    """Make the rest look like more of the first answer: `feed(events) -> events`, whole events both.

    Chunks get the first answer's id, what it has said already is dropped, usage counts both parts. Raises RestDiffers.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest, self._overlap = rest, rest.overlap

    def feed(self, events: bytes) -> bytes:
        """Return what of *events* is new to the client."""
        return b"".join(self._event(event) for event in events.split(b"\n\n") if event)

    def usage(self, usage: Usage) -> Usage:
        """Return the usage of the whole answer, of which *usage* is that of the rest."""
        pieces = self._rest.pieces
        prompt = max(0, usage.prompt_tokens - pieces)
        return msgspec.structs.replace(
            usage,
            prompt_tokens=prompt,
            completion_tokens=usage.completion_tokens + pieces,
            cached_tokens=min(usage.cached_tokens, prompt),
        )

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(_DATA):
            return b"" if event.startswith(b": cortex-start") else event + b"\n\n"
        data = event[len(_DATA) :]
        if data == _DONE:
            self._check_overlap()
            return event + b"\n\n"
        try:
            chunk = _fields.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamFailed(f"the node sent an answer that could not be read: {error}") from None
        if "error" in chunk:
            return event + b"\n\n"
        head = self._rest.head
        chunk.update(id=head.id, created=head.created, model=head.model)
        if chunk.get("usage"):
            self._count(chunk["usage"])
        return data_event(json.encode(chunk)) if self._has_news(chunk) else b""

    def _has_news(self, chunk: dict[str, Any]) -> bool:
        """Take out of *chunk* what the client has, and return whether anything is left."""
        news = not chunk.get("choices")
        for choice in chunk.get("choices") or ():
            piece = choice.get("delta", choice)
            piece.pop("role", None)
            field = "content" if "delta" in choice else "text"
            if piece.get(field):
                piece[field] = self._new_of(piece[field])
            if choice.get("finish_reason"):
                self._check_overlap()
            news = (
                news
                or any(piece.get(name) for name in ("content", "text", "tool_calls"))
                or bool(choice.get("finish_reason"))
            )
        return news

    def _new_of(self, text: str) -> str:
        common = min(len(text), len(self._overlap))
        if text[:common] != self._overlap[:common]:
            raise RestDiffers(f"the answer went on with {text!r} where {self._overlap!r} had been said")
        self._overlap = self._overlap[common:]
        return text[common:]

    def _check_overlap(self) -> None:
        if self._overlap:
            raise RestDiffers(f"the answer ended where {self._overlap!r} had been said")

    def _count(self, usage: dict[str, Any]) -> None:
        """Make the *usage* of a chunk that of the whole answer."""
        pieces = self._rest.pieces
        usage["prompt_tokens"] = max(0, usage.get("prompt_tokens", 0) - pieces)
        usage["completion_tokens"] = usage.get("completion_tokens", 0) + pieces
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens"):
            details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])
