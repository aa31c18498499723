"""Anthropic's requests as msgspec reads them: what is honoured or looked at, and nothing else of what clients send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cortex.wire.openai import MAX_STOPS, MAX_TOKENS

_Text = Annotated[str, Meta(min_length=1)]
_Unit = Annotated[float, Meta(ge=0.0, le=1.0)]

# Made by a factory wherever it is a default: no JSON Schema is made of a Struct with a Raw one.
ABSENT = msgspec.Raw(b"null")


class Source(msgspec.Struct):
    """Where the bytes or the text of an image or a document are."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: str | list[Block] | None = None


class Block(msgspec.Struct):
    """A content block of any type; which fields it must have follows from `type`."""

    type: str
    text: str | None = None
    source: Source | str | None = None
    title: str | None = None
    context: str | None = None
    content: str | list[Block] | dict[str, Any] | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.field(default_factory=lambda: ABSENT)
    tool_use_id: str | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    citations: Any = None
    cache_control: Any = None


class Message(msgspec.Struct):
    """A message of the conversation; clients also send `system` in the midst of it."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """An entry of `tools`: one of the client's own, or one that Anthropic defines or runs, by `type`."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.field(default_factory=lambda: ABSENT)
    strict: bool | None = None
    defer_loading: bool | None = None
    cache_control: Any = None


class ToolChoice(msgspec.Struct):
    """`tool_choice`."""

    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    """`thinking`."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct):
    """`output_config.format`, which older clients call `output_format`."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """`output_config`."""

    format: OutputFormat | None = None
    effort: Any = None


class Prompt(msgspec.Struct, kw_only=True):
    """What is counted and what is answered have in common; `POST /v1/messages/count_tokens` is no more than this."""

    model: _Text
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None


class MessagesRequest(Prompt, kw_only=True):
    """`POST /v1/messages`. None stands for absent."""

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: _Unit | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    stop_sequences: Annotated[list[_Text], Meta(max_length=MAX_STOPS)] | None = None
    tool_choice: ToolChoice | None = None
