"""An item of the output while it grows: it opens, takes its pieces and closes, as events without their numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import msgspec

from cortex.wire import json
from cortex.wire.responses.items import (
    CustomCall,
    FunctionCall,
    Message,
    OutputItem,
    OutputText,
    Reasoning,
    ReasoningText,
    Status,
    SummaryText,
    item_id,
    seal,
)
from cortex.wire.responses.tools import ToolName, custom_input

# What stands before an event's sequence number, and what stands after it.
Event = tuple[bytes, bytes]
TokenLogprobs = list[dict[str, Any]]


def head_of(kind: str) -> bytes:
    """Return an event of *kind* up to its sequence number."""
    return b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind.encode(), kind.encode())


def event(kind: str, **fields: Any) -> Event:
    """Return an event of *kind* with *fields*, of which there is at least one."""
    return head_of(kind), b",%b\n\n" % json.encode(fields)[1:]


class Growing(ABC):
    """An item at *index* of the output."""

    def __init__(self, item: str, index: int) -> None:
        self.status: Status = "in_progress"
        self._id, self._index = item, index
        self._pieces: list[str] = []

    @abstractmethod
    def value(self) -> OutputItem:
        """Return the item as it stands."""

    @abstractmethod
    def opened(self) -> list[Event]:
        """Return the events before the first piece."""

    @abstractmethod
    def closed(self, status: Status) -> list[Event]:
        """Return the events after the last piece."""

    def _added(self) -> Event:
        return event("response.output_item.added", output_index=self._index, item=self.value())

    def _done(self) -> Event:
        return event("response.output_item.done", output_index=self._index, item=self.value())

    def _text(self) -> str:
        return "".join(self._pieces)


@dataclass(frozen=True, slots=True)
class PartEvents:
    """How a text is streamed: the names of its events, and of the place of its one part."""

    text: str
    part: str
    place: str


_MESSAGE = PartEvents("response.output_text", "response.content_part", "content_index")
_REASONING = PartEvents("response.reasoning_text", "response.content_part", "content_index")
_SUMMARY = PartEvents("response.reasoning_summary_text", "response.reasoning_summary_part", "summary_index")


class GrowingText(Growing):
    """An item of one part of text."""

    def __init__(self, names: PartEvents, item: str, index: int) -> None:
        super().__init__(item, index)
        self._names = names
        self._place = {"item_id": item, "output_index": index, names.place: 0}
        self._delta_head = head_of(f"{names.text}.delta")
        self._delta_place = b",%b" % json.encode(self._place)[1:-1]

    @abstractmethod
    def part(self) -> msgspec.Struct:
        """Return the part as it stands."""

    def opened(self) -> list[Event]:
        """Return the item without its part, and then the part without its text."""
        return [self._added(), event(f"{self._names.part}.added", **self._place, part=self.part())]

    def closed(self, status: Status) -> list[Event]:
        """Return the text, the part and the item, each as a whole."""
        self.status = status
        return [
            event(f"{self._names.text}.done", **self._place, text=self._text(), **self._more()),
            event(f"{self._names.part}.done", **self._place, part=self.part()),
            self._done(),
        ]

    def _more(self) -> dict[str, Any]:
        return {}


class GrowingMessage(GrowingText):
    """The text of the answer."""

    def __init__(self, response_id: str, index: int) -> None:
        super().__init__(_MESSAGE, item_id("msg", response_id, index), index)
        self._logprobs: TokenLogprobs = []

    def add(self, text: str, logprobs: TokenLogprobs) -> Event:
        """Return the event of one piece."""
        self._pieces.append(text)
        self._logprobs += logprobs
        told = json.encode(logprobs) if logprobs else b"[]"
        return self._delta_head, b'%b,"logprobs":%b,"delta":%b}\n\n' % (self._delta_place, told, json.encode(text))

    def part(self) -> OutputText:
        """Return the text so far."""
        return OutputText(self._text(), logprobs=self._logprobs)

    def value(self) -> Message:
        """Return the message; one that still grows is told without its part."""
        return Message(self._id, self.status, [] if self.status == "in_progress" else [self.part()])

    def _more(self) -> dict[str, Any]:
        return {"logprobs": self._logprobs}


class GrowingReasoning(GrowingText):
    """What the model thinks: as a summary for clients that asked for one, else as it is; *sealed* to be sent back."""

    def __init__(self, response_id: str, index: int, *, summary: bool, sealed: bool) -> None:
        super().__init__(_SUMMARY if summary else _REASONING, item_id("rs", response_id, index), index)
        self._summary, self._sealed = summary, sealed

    def add(self, text: str) -> Event:
        """Return the event of one piece."""
        self._pieces.append(text)
        return self._delta_head, b'%b,"delta":%b}\n\n' % (self._delta_place, json.encode(text))

    def part(self) -> SummaryText | ReasoningText:
        """Return the text so far."""
        return SummaryText(self._text()) if self._summary else ReasoningText(self._text())

    def value(self) -> Reasoning:
        """Return the item; one that still grows is told without its part."""
        item = Reasoning(self._id, self.status, summary=[])
        if self.status == "in_progress":
            return item
        if self._summary:
            item.summary = [SummaryText(self._text())]
        else:
            item.content = [ReasoningText(self._text())]
        item.encrypted_content = seal(self._text()) if self._sealed else None
        return item


class GrowingCall(Growing):
    """A call of a function, its arguments in pieces."""

    def __init__(self, response_id: str, index: int, tool: ToolName, call_id: str) -> None:
        super().__init__(item_id("ctc" if tool.custom else "fc", response_id, index), index)
        self._tool, self._call_id = tool, call_id
        self._place = {"item_id": self._id, "output_index": index}
        self._delta_head = head_of("response.function_call_arguments.delta")
        self._delta_place = b",%b" % json.encode(self._place)[1:-1]

    def opened(self) -> list[Event]:
        """Return the call without its arguments."""
        return [self._added()]

    def add(self, arguments: str) -> list[Event]:
        """Return the event of one piece, if there is one."""
        self._pieces.append(arguments)
        return [(self._delta_head, b'%b,"delta":%b}\n\n' % (self._delta_place, json.encode(arguments)))]

    def closed(self, status: Status) -> list[Event]:
        """Return the arguments and the call, each as a whole."""
        self.status = status
        name = "response.function_call_arguments.done"
        return [event(name, **self._place, name=self._tool.name, arguments=self._text()), self._done()]

    def value(self) -> FunctionCall | CustomCall:
        """Return the call; one that still grows is told without its arguments."""
        text = "" if self.status == "in_progress" else self._text()
        tool = self._tool
        return FunctionCall(self._id, self.status, self._call_id, tool.name, text, tool.namespace)


class GrowingCustomCall(GrowingCall):
    """A call of a custom tool: its input lies in the arguments, and is told once they are whole."""

    def add(self, arguments: str) -> list[Event]:
        """Hold one piece."""
        self._pieces.append(arguments)
        return []

    def closed(self, status: Status) -> list[Event]:
        """Return the input, in one piece and as a whole, and the call."""
        self.status = status
        told = custom_input(self._text())
        return [
            event("response.custom_tool_call_input.delta", **self._place, delta=told),
            event("response.custom_tool_call_input.done", **self._place, input=told),
            self._done(),
        ]

    def value(self) -> CustomCall:
        """Return the call; one that still grows is told without its input."""
        text = "" if self.status == "in_progress" else custom_input(self._text())
        return CustomCall(self._id, self._call_id, self._tool.name, text, self._tool.namespace)
