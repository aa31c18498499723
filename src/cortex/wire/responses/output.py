"""The output of a response, from the hub's chunks: which item a piece belongs to, and when an item opens and closes.

Text and reasoning close as soon as something else begins, and begin anew after it. Calls stay open to the end, as the
hub may come back to any of them by its index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cortex.wire.hub_stream import Call, Choice, Chunk, Delta, HubUsage, Logprobs
from cortex.wire.responses.growing import (
    Event,
    Growing,
    GrowingCall,
    GrowingCustomCall,
    GrowingMessage,
    GrowingReasoning,
    TokenLogprobs,
)
from cortex.wire.responses.items import OutputItem, Status, item_id
from cortex.wire.responses.request import Request
from cortex.wire.responses.tools import ToolName

_COMPLETED: Status = "completed"
_INCOMPLETE: Status = "incomplete"


@dataclass(slots=True)
class _Call:
    """A call that the hub has begun; it is told once its name is known."""

    id: str | None = None
    held: list[str] = field(default_factory=list)
    item: GrowingCall | None = None


class Output:
    """Take chunks, give events; `items()` is the output so far."""

    def __init__(self, request: Request, response_id: str) -> None:
        self._request, self._response_id = request, response_id
        self._items: list[Growing] = []
        self._open: GrowingMessage | GrowingReasoning | None = None
        self._calls: dict[int, _Call] = {}
        self.finish_reason: str | None = None
        self.usage: HubUsage | None = None

    def items(self) -> list[OutputItem]:
        """Return the items in their order."""
        return [item.value() for item in self._items]

    def take(self, chunk: Chunk) -> list[Event]:
        """Return the events of *chunk*, which may also be a whole answer."""
        self.usage = chunk.usage or self.usage
        choice = chunk.choice()
        return self._take_choice(choice) if choice is not None else []

    def close(self) -> list[Event]:
        """Return the events that close what is open, and something to close if nothing was said."""
        events = [each for call in self._calls.values() if call.item is None for each in self._begin_call(call, "")]
        if not self._items:
            events += self._begin(GrowingMessage(self._response_id, 0))
        whole = self.finish_reason not in ("length", "content_filter")
        for item in self._items:
            if item.status == "in_progress":
                events += item.closed(_COMPLETED if whole else _INCOMPLETE)
        return events

    def break_off(self) -> None:
        """Leave what is open as it is: nothing will come to complete it."""
        for item in self._items:
            if item.status == "in_progress":
                item.status = _INCOMPLETE

    def _take_choice(self, choice: Choice) -> list[Event]:
        delta = choice.delta or choice.message or _NOTHING
        self.finish_reason = choice.finish_reason or self.finish_reason
        events: list[Event] = []
        if delta.reasoning_content:
            events += self._thought(delta.reasoning_content)
        if delta.content:
            events += self._said(delta.content, _told(choice.logprobs))
        for place, call in enumerate(delta.tool_calls or ()):
            events += self._called(place if call.index is None else call.index, call)
        return events

    def _thought(self, text: str) -> list[Event]:
        item, events = self._open, list[Event]()
        if not isinstance(item, GrowingReasoning):
            request, index = self._request, len(self._items)
            item = GrowingReasoning(self._response_id, index, summary=request.summary, sealed=request.sealed)
            events = self._begin(item)
        events.append(item.add(text))
        return events

    def _said(self, text: str, logprobs: TokenLogprobs) -> list[Event]:
        item, events = self._open, list[Event]()
        if not isinstance(item, GrowingMessage):
            item = GrowingMessage(self._response_id, len(self._items))
            events = self._begin(item)
        events.append(item.add(text, logprobs))
        return events

    def _begin(self, item: GrowingMessage | GrowingReasoning) -> list[Event]:
        events = self._close_text()
        self._open = item
        self._items.append(item)
        return events + item.opened()

    def _close_text(self) -> list[Event]:
        item, self._open = self._open, None
        return item.closed(_COMPLETED) if item is not None else []

    def _called(self, at: int, piece: Call) -> list[Event]:
        call = self._calls.setdefault(at, _Call())
        call.id = call.id or piece.id
        arguments = piece.arguments
        if call.item is not None:
            return call.item.add(arguments) if arguments else []
        if arguments:
            call.held.append(arguments)
        return self._begin_call(call, piece.name) if piece.name else []

    def _begin_call(self, call: _Call, name: str) -> list[Event]:
        tool = self._request.names.get(name) or ToolName(name)
        index, sort = len(self._items), GrowingCustomCall if tool.custom else GrowingCall
        call_id = call.id or item_id("call", self._response_id, index)
        call.item = item = sort(self._response_id, index, tool, call_id)
        self._items.append(item)
        events = self._close_text() + item.opened()
        for piece in call.held:
            events += item.add(piece)
        return events


_NOTHING = Delta()


def _told(logprobs: Logprobs | None) -> TokenLogprobs:
    """Return *logprobs* with a list wherever the hub may say null."""
    if logprobs is None or not logprobs.content:
        return []
    return [
        {**_with_bytes(each), "top_logprobs": [_with_bytes(top) for top in each.get("top_logprobs") or ()]}
        for each in logprobs.content
    ]


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "bytes": entry.get("bytes") or []}
