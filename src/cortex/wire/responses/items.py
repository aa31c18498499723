"""The items of a response: those that a client sends, those that it gets, and how a reasoning item carries its text.

An item of an answer is named after its response: `msg_<rest of the response's id>_<place>`. Who holds an item's id
knows whose it is, and needs no index.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import msgspec

Status = Literal["in_progress", "completed", "incomplete"]

_RESPONSE = "resp_"
_SEALED = "cortex1:"


class Kind(msgspec.Struct):
    """What decides how an item of the input is read."""

    type: str | None = None
    role: str | None = None
    id: str | None = None

    @property
    def name(self) -> str:
        """The item's type; a message may leave it out, and so may a reference."""
        return self.type or ("message" if self.role else "item_reference")


class Part(msgspec.Struct):
    """A part of a message's content, of a tool's output, or of a reasoning text."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    filename: str | None = None
    file_data: str | None = None


class MessageItem(msgspec.Struct):
    """A message of any role."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]


class ReasoningItem(msgspec.Struct):
    """What the model thought in an earlier turn."""

    summary: list[Part] | None = None
    content: list[Part] | None = None
    encrypted_content: str | None = None


class FunctionCallItem(msgspec.Struct):
    """A call that the model made in an earlier turn."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class CustomCallItem(msgspec.Struct):
    """A call of a custom tool, whose input is free text."""

    call_id: str
    name: str
    input: str
    namespace: str | None = None


class CallOutputItem(msgspec.Struct):
    """What a call gave, of a function or of a custom tool."""

    call_id: str
    output: str | list[Part]


class OutputText(msgspec.Struct, tag="output_text"):
    """The text of an answer."""

    text: str
    annotations: list[Any] = []
    logprobs: list[dict[str, Any]] = []


class SummaryText(msgspec.Struct, tag="summary_text"):
    """Reasoning, shown as a summary."""

    text: str


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    """Reasoning, as the model wrote it."""

    text: str


class Message(msgspec.Struct, tag="message"):
    """An answer's text as an item."""

    id: str
    status: Status
    content: list[OutputText]
    role: str = "assistant"


class Reasoning(msgspec.Struct, tag="reasoning", omit_defaults=True):
    """An answer's reasoning as an item."""

    id: str
    status: Status
    summary: list[SummaryText]
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class FunctionCall(msgspec.Struct, tag="function_call", omit_defaults=True):
    """A call of a function as an item."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class CustomCall(msgspec.Struct, tag="custom_tool_call", omit_defaults=True):
    """A call of a custom tool as an item."""

    id: str
    call_id: str
    name: str
    input: str
    namespace: str | None = None


OutputItem = Message | Reasoning | FunctionCall | CustomCall


def item_id(prefix: str, response_id: str, place: int) -> str:
    """Return the id of the item at *place* of the output of *response_id*."""
    return f"{prefix}_{response_id.removeprefix(_RESPONSE)}_{place}"


def response_of(item: str) -> str:
    """Return the id of the response that the output item with the id *item* belongs to, if it is one of ours."""
    return _RESPONSE + item.partition("_")[2].rpartition("_")[0]


def seal(text: str) -> str:
    """Return *text* as `encrypted_content`: opaque to a client, and read back as it was. It hides nothing."""
    return _SEALED + base64.b64encode(text.encode()).decode()


def unseal(content: str) -> str | None:
    """Return the text in *content*, or None if another server sealed it."""
    if not content.startswith(_SEALED):
        return None
    try:
        return base64.b64decode(content[len(_SEALED) :], validate=True).decode()
    except (binascii.Error, ValueError):
        return None
