"""Server-sent events from the client's side: bytes in, whole events out. No I/O.

Reads what https://html.spec.whatwg.org/multipage/server-sent-events.html calls an event stream, and unlike a browser
keeps the comments, since the gateway says in them how far a load is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Data:
    """An event: its `data` lines, joined."""

    text: str


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that means nothing to other clients."""

    text: str


class SseReader:
    """`feed(bytes) -> events`, wherever the bytes are cut. An event without its blank line is never returned."""

    def __init__(self) -> None:
        self._held = b""
        self._data: list[str] = []
        self._after_return = False
        self._at_start = True

    def feed(self, received: bytes) -> list[Data | Comment]:
        """Return the events that *received* completes."""
        if not received:
            return []
        # A line that ended in CR is already out; an LF right after it belongs to the same line end.
        if self._after_return and received.startswith(b"\n"):
            received = received[1:]
        self._after_return = received.endswith(b"\r")
        *lines, self._held = _LINE_END.split(self._held + received)
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> Data | Comment | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._dispatch()
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if not name:
            return Comment(value)
        if name == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> Data | None:
        if not self._data:
            return None
        text = "\n".join(self._data)
        self._data.clear()
        return Data(text)
