"""From a flat list of items to the messages of a chat that any template accepts.

The rules:
- Instructions, and the system and developer messages before the first turn, are one system message.
- A later one is text at the front of the user turn that follows it, or at the end if none does. Nothing is dropped.
- What the assistant thought, said and called between two turns of others is one message.
- The outputs of its calls stand right after it, in the order of the calls, wherever they were sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire.responses.parts import SEPARATOR, Content, after, before

Messages = list[dict[str, Any]]


@dataclass(slots=True)
class _Turn:
    """What the assistant did before somebody else spoke."""

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[int, Content] = field(default_factory=dict)

    def messages(self) -> Messages:
        text = SEPARATOR.join(self.texts) if self.texts or not self.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.thoughts:
            message["reasoning_content"] = SEPARATOR.join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return [message, *(self._output(at) for at in sorted(self.outputs))]

    def _output(self, at: int) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.calls[at]["id"], "content": self.outputs[at]}


class Turns:
    """Take items in order; `messages()` once they are all there."""

    def __init__(self) -> None:
        self._system: list[str] = []
        self._late: list[str] = []
        self._done: list[_Turn | dict[str, Any]] = []
        self._turn: _Turn | None = None
        self._waiting: dict[str, list[tuple[_Turn, int]]] = {}

    def system(self, text: str) -> None:
        """Take instructions, from wherever they stand."""
        (self._late if self._done else self._system).append(text)

    def user(self, content: Content) -> None:
        """Take a user's message."""
        if self._late:
            content = before(SEPARATOR.join(self._late), content)
            self._late = []
        self._done.append({"role": "user", "content": content})
        self._turn = None

    def thought(self, text: str) -> None:
        """Take a reasoning item."""
        self._assistant().thoughts.append(text)

    def said(self, text: str) -> None:
        """Take a message of the assistant."""
        self._assistant().texts.append(text)

    def called(self, call_id: str, name: str, arguments: str) -> None:
        """Take a call of the assistant, with its name in the hub."""
        turn = self._assistant()
        self._waiting.setdefault(call_id, []).append((turn, len(turn.calls)))
        turn.calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})

    def gave(self, call_id: str, content: Content, at: str) -> None:
        """Take what a call gave. Raises BadRequest if no call before it waits for it."""
        waiting = self._waiting.get(call_id)
        if not waiting:
            raise BadRequest(f"{at}.call_id: no call {call_id[:80]!r} comes before this output", param=f"{at}.call_id")
        turn, place = waiting.pop()
        turn.outputs[place] = content
        self._turn = None

    def messages(self) -> Messages:
        """Return the chat."""
        messages = [
            message for each in self._done for message in (each.messages() if isinstance(each, _Turn) else [each])
        ]
        if self._system:
            messages.insert(0, {"role": "system", "content": SEPARATOR.join(self._system)})
        if self._late:
            messages = _with_last_word(messages, SEPARATOR.join(self._late))
        return messages

    def _assistant(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
            self._done.append(self._turn)
        return self._turn


def _with_last_word(messages: Messages, text: str) -> Messages:
    """Return *messages* with *text* at the end of the last user turn if it is the last, or as one of its own."""
    last = messages[-1]
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": text}]
    return [*messages[:-1], {**last, "content": after(last["content"], text)}]
