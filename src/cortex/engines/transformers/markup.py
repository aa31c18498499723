"""Read a model's own marks as they stream: what it reasons, what it says, which tools it calls. Pure.

Two forms of a call are known, both between `<tool_call>` and `</tool_call>`: Hermes' JSON object (Qwen2.5, Qwen3 and
most that are fine-tuned for tools), and Qwen3-Coder's `<function=…><parameter=…>`. What is neither stays text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.transformers.stops import held_length
from cortex.wire.json import decode_any, encode

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
MARKS = (THINK, THINK_END, CALL, CALL_END)
_FUNCTION = re.compile(r"\s*<function=([^>\s]+)>(.*?)(?:</function>)?\s*\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning before it."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A whole call; *arguments* is a JSON object as text."""

    name: str
    arguments: str


Piece = Said | Thought | Called


class Marks:
    """Takes one answer's text apart. *thinking* is whether the prompt opened the reasoning already."""

    def __init__(self, tools: dict[str, dict[str, Any]], *, reasons: bool, thinking: bool = False) -> None:
        """With *tools*, the parameters' schema of each function by name, calls are read."""
        self._tools = tools
        self._opens = ((THINK,) if reasons else ()) + ((CALL,) if tools else ())
        self._inside: str | None = THINK if reasons and thinking else None
        self._held = ""
        self._bare = True  # nothing but white space was said since the last mark
        self.called = False

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield what *text* completes."""
        self._held += text
        while True:
            before = (self._inside, self._held)
            yield from self._advance()
            if (self._inside, self._held) == before:
                return

    def flush(self) -> Iterator[Piece]:
        """Yield what is left when nothing more comes; a call that was cut short is text."""
        held, self._held = self._held, ""
        if self._inside == CALL:
            yield from self._call(held, whole=False)
        elif self._inside == THINK:
            yield from self._piece(Thought, held)
        else:
            yield from self._say(held)
        self._inside = None

    def _advance(self) -> Iterator[Piece]:
        if self._inside is None:
            yield from self._outside()
        elif self._inside == THINK:
            yield from self._until(THINK_END, Thought)
        elif CALL_END in self._held:
            body, _, self._held = self._held.partition(CALL_END)
            self._inside, self._bare = None, True
            yield from self._call(body, whole=True)

    def _outside(self) -> Iterator[Piece]:
        found = min(((at, mark) for mark in self._opens if (at := self._held.find(mark)) >= 0), default=None)
        if found is None:
            keep = held_length(self._held, self._opens) if self._opens else 0
            said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            yield from self._say(said)
            return
        at, mark = found
        said, self._held = self._held[:at], self._held[at + len(mark) :]
        yield from self._say(said if mark == THINK else said.rstrip())
        self._inside = mark

    def _until(self, end: str, kind: type[Thought]) -> Iterator[Piece]:
        text, mark, rest = self._held.partition(end)
        if mark:
            self._inside, self._held, self._bare = None, rest, True
            yield from self._piece(kind, text)
            return
        keep = held_length(self._held, (end,))
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        yield from self._piece(kind, shown)

    def _say(self, text: str) -> Iterator[Piece]:
        """Yield *text* without the white space between a mark and what comes after it."""
        if self._opens and self._bare:
            text = text.lstrip()
        self._bare = self._bare and not text
        yield from self._piece(Said, text)

    @staticmethod
    def _piece(kind: type[Said] | type[Thought], text: str) -> Iterator[Piece]:
        if text:
            yield kind(text)

    def _call(self, body: str, *, whole: bool) -> Iterator[Piece]:
        called = (_from_json(body) or self._from_tags(body)) if body.strip() else None
        if called is None:
            yield Said(CALL + body + (CALL_END if whole else ""))
        else:
            self.called = True
            yield called

    def _from_tags(self, body: str) -> Called | None:
        match = _FUNCTION.match(body)
        if match is None:
            return None
        properties = self._tools.get(match[1], {}).get("properties")
        known = properties if isinstance(properties, dict) else {}
        values = {name: _value(text, known.get(name)) for name, text in _PARAMETER.findall(match[2])}
        return Called(match[1], encode(values).decode())


def _from_json(body: str) -> Called | None:
    """Return the call that the object *body* is, with `arguments` as an object or as text that is one."""
    try:
        value = decode_any(body.strip().encode())
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = decode_any(arguments.encode())
    except (BadRequest, AttributeError, UnicodeEncodeError):
        return None
    if not isinstance(value.get("name"), str) or not isinstance(arguments, dict):
        return None
    return Called(value["name"], encode(arguments).decode())


def _value(text: str, schema: Any) -> Any:
    """Return a parameter's *text* as its schema's type; as it is where that is a string, or where it is no JSON."""
    if isinstance(schema, dict) and schema.get("type") == "string":
        return text
    try:
        return decode_any(text.encode())
    except (BadRequest, UnicodeEncodeError):
        return text
