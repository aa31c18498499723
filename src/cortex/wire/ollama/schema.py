"""Ollama's requests as msgspec reads them: what is honoured or looked at, and nothing else of what clients send."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cortex.wire.openai import MAX_STOPS, MAX_TOKENS, FunctionSpec

_Text = Annotated[str, Meta(min_length=1)]
_Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]

# Made by a factory wherever it is a default: no JSON Schema is made of a Struct with a Raw one.
ABSENT, NO_ARGUMENTS = msgspec.Raw(b"null"), msgspec.Raw(b"{}")


class CallFunction(msgspec.Struct):
    """What a call is of; its arguments are an object."""

    name: _Text
    arguments: msgspec.Raw = msgspec.field(default_factory=lambda: NO_ARGUMENTS)


class ToolCall(msgspec.Struct):
    """A call that the assistant made in an earlier turn; only newer clients repeat its id."""

    function: CallFunction
    id: str | None = None


class Message(msgspec.Struct):
    """A message of the conversation. `tool_name`, or else `tool_call_id`, says which call a tool's message answers."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Tool(msgspec.Struct):
    """An entry of `tools`."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class Options(msgspec.Struct):
    """Those of `options` that the hub has too, within its bounds, and those that only one value is offered of."""

    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    top_p: _Unit | None = None
    min_p: _Unit | None = None
    typical_p: _Unit | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Text | Annotated[list[_Text], Meta(max_length=MAX_STOPS)] | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=MAX_TOKENS)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repeat_last_n: int | None = None
    mirostat: int | None = None


class Asked(msgspec.Struct, kw_only=True):
    """What a chat and a generation have in common. None stands for absent."""

    model: _Text
    stream: bool | None = None
    format: msgspec.Raw = msgspec.field(default_factory=lambda: ABSENT)
    options: Options | None = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = None


class ChatRequest(Asked, kw_only=True):
    """`POST /api/chat`."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(Asked, kw_only=True):
    """`POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None


class EmbedRequest(msgspec.Struct, kw_only=True):
    """`POST /api/embed`."""

    model: _Text
    input: str | list[_Text] | None = None
    dimensions: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    keep_alive: float | str | None = None


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """`POST /api/embeddings`, the older one."""

    model: _Text
    prompt: str | None = None
    keep_alive: float | str | None = None
