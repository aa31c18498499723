"""The order of content blocks: one after another and each whole, whatever order their pieces come in.

Pieces of the open block go out at once. A piece of another block closes the open one if that is complete: thinking and
text always are, a call once its arguments are a JSON object. Else it waits, as does what comes behind it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cortex.wire.anthropic import events
from cortex.wire.anthropic.thinking import Display, signature_of
from cortex.wire.hub_stream import Call

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any])


class _Block:
    """A block that waits, is open, or is closed. *pieces* is what it was given, as far as anything depends on it."""

    kind: bytes
    field: bytes

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.index: int | None = None
        self._delta_start = b""

    def open(self, index: int) -> bytes:
        """Return the start event, and what the block was given while it waited."""
        self.index, self._delta_start = index, events.delta_start(index, self.kind, self.field)
        held, self.pieces = "".join(self.pieces), []
        return events.block_start(index, self.start()) + (self.add(held) if held else b"")

    def start(self) -> dict[str, Any]:
        """Return the block as its start event has it."""
        raise NotImplementedError

    def add(self, piece: str) -> bytes:
        """Return the delta of *piece*."""
        return self._delta_start + _encode(piece) + events.DELTA_END

    def is_complete(self) -> bool:
        """Whether nothing can follow in this block once another has begun."""
        return True

    def close(self) -> bytes:
        """Return what ends the block."""
        assert self.index is not None, "not open"
        return events.block_stop(self.index)


class _Text(_Block):
    kind, field = b"text_delta", b"text"

    def start(self) -> dict[str, Any]:
        return {"type": "text", "text": ""}


class _Thinking(_Block):
    kind, field = b"thinking_delta", b"thinking"

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def start(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "", "signature": ""}

    def add(self, piece: str) -> bytes:
        self.pieces.append(piece)
        return super().add(piece) if self._display is Display.TEXT else b""

    def close(self) -> bytes:
        assert self.index is not None, "not open"
        signature = signature_of("".join(self.pieces), self._display)
        return events.signature(self.index, signature) + super().close()


class _ToolUse(_Block):
    kind, field = b"input_json_delta", b"partial_json"

    def __init__(self, at: int) -> None:
        super().__init__()
        self.id, self.name = f"call_{at}", ""
        self._looked_at, self._complete = 0, False

    def start(self) -> dict[str, Any]:
        return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}

    def learn(self, piece: Call) -> None:
        """Take the id and the name from *piece*, if it has them."""
        self.id, self.name = piece.id or self.id, self.name or piece.name

    def add(self, piece: str) -> bytes:
        self.pieces.append(piece)
        return super().add(piece)

    def is_complete(self) -> bool:
        if self._looked_at != len(self.pieces):
            self._looked_at = len(self.pieces)
            self._complete = _is_object("".join(self.pieces))
        return self._complete


class Blocks:
    """Turn pieces into the events of well-formed blocks."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._opened = 0
        self._open: _Block | None = None
        self._waiting: list[_Block] = []
        self._calls: dict[int, _ToolUse] = {}

    @property
    def called(self) -> bool:
        """Whether any tool was called by name."""
        return any(call.name for call in self._calls.values())

    def text(self, piece: str) -> bytes:
        """Return the events for *piece* of the answer's text."""
        head = self._open
        return head.add(piece) if type(head) is _Text else self._behind(_Text(), piece)

    def thinking(self, piece: str) -> bytes:
        """Return the events for *piece* of the model's reasoning."""
        head = self._open
        return head.add(piece) if type(head) is _Thinking else self._behind(_Thinking(self._display), piece)

    def call(self, at: int, piece: Call) -> bytes:
        """Return the events for *piece* of the tool call *at*; one without a name is held until it has one."""
        block = self._calls.get(at)
        if block is None:
            block = self._calls[at] = _ToolUse(at)
        block.learn(piece)
        if block is self._open:
            return (block.add(piece.arguments) if piece.arguments else b"") + self._advance()
        if block.index is not None:
            return b""
        block.pieces.append(piece.arguments)
        if block.name and block not in self._waiting:
            self._waiting.append(block)
        return self._advance()

    def finish(self) -> bytes:
        """Return the events of all that waits, and the end of the last block."""
        out = [self._next() for _ in range(len(self._waiting))]
        last, self._open = self._open, None
        return b"".join(out) + (last.close() if last is not None else b"")

    def _behind(self, block: _Block, piece: str) -> bytes:
        """Put *piece* behind all that waits: into the last one if it is of the kind of *block*."""
        if not self._waiting or type(self._waiting[-1]) is not type(block):
            self._waiting.append(block)
        self._waiting[-1].pieces.append(piece)
        return self._advance()

    def _advance(self) -> bytes:
        """Return the events of the blocks that need not wait any more."""
        out = []
        while self._waiting and (self._open is None or self._open.is_complete()):
            out.append(self._next())
        return b"".join(out)

    def _next(self) -> bytes:
        """Close the open block and open the first that waits."""
        closed = self._open.close() if self._open is not None else b""
        self._open, index = self._waiting.pop(0), self._opened
        self._opened += 1
        return closed + self._open.open(index)


def _is_object(text: str) -> bool:
    try:
        _object.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
