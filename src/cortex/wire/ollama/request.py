"""Ollama's requests as the hub's: field by field honoured, refused by name, or named as ignored.

A generation is a chat of its `system` and `prompt`; a `raw` one is a completion, which no template touches. One with
nothing to answer only loads the model: it has no body for the hub.

`think` decides what the client sees, reasoning in a field of its own or with `false` not at all; and whether the model
reasons, where its template lets a client say so (see `wire.reasoning`). A conversation that ends with the assistant is
refused: not every engine could go on from there, and an answer from the start would not be what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cortex.wire import json
from cortex.wire.engine_api import Kind
from cortex.wire.ollama.conversation import hub_content, hub_messages
from cortex.wire.ollama.models import plain_name
from cortex.wire.ollama.options import hub_effort, hub_format, hub_sampling, refused, unheeded_options
from cortex.wire.ollama.schema import Asked, ChatRequest, GenerateRequest, Tool
from cortex.wire.ollama.times import kept_seconds

# These change the answer and are not offered: refused, never dropped.
_REFUSED = {
    "context": "tokens of an earlier answer are not kept; use /api/chat and send the messages",
    "suffix": "filling in the middle is not supported",
    "template": "a template comes with its model, never with a request",
    "logprobs": "not supported",
    "top_logprobs": "not supported",
}
_NOT_RAW = ("system", "images", "format")

_chat = msgspec.json.Decoder(ChatRequest)
_generate = msgspec.json.Decoder(GenerateRequest)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was read whole: the hub's body, and what the shape of the answer depends on.

    *name* is the model as the client calls it, *model* as the hub does. *body* is empty if there is nothing to answer.
    """

    name: str
    model: str
    kind: Kind
    stream: bool
    body: bytes
    ignored: tuple[str, ...]
    shows_thinking: bool
    keep_loaded_seconds: float | None


def read_chat_request(body: bytes) -> Request:
    """Return the hub's request for the body of `POST /api/chat`. Raises BadRequest."""
    fields = _fields(body)
    asked = json.decode(body, _chat)
    messages = asked.messages or []
    if messages and messages[-1].role == "assistant":
        raise refused("messages", "the last one is the assistant's; going on from there is not supported")
    tools = [_hub_tool(tool) for tool in asked.tools or ()]
    hub = {"messages": hub_messages(messages), **hub_format(asked), **hub_effort(asked)}
    return _request("chat", asked, fields, {**hub, **({"tools": tools} if tools else {})}, loads_only=not messages)


def read_generate_request(body: bytes) -> Request:
    """Return the hub's request for the body of `POST /api/generate`. Raises BadRequest."""
    fields = _fields(body)
    asked = json.decode(body, _generate)
    kind: Kind = "completion" if asked.raw else "chat"
    hub = _completion(asked, fields) if asked.raw else _conversation(asked)
    return _request(kind, asked, fields, hub, loads_only=not asked.prompt)


def named(ignored: set[str]) -> tuple[str, ...]:
    """Return *ignored* as a header may have it."""
    return tuple(sorted({json.printable(name) for name in ignored}))


def _fields(body: bytes) -> json.Fields:
    fields = json.fields_of(body)
    for name in sorted(_REFUSED.keys() & fields.keys()):
        if json.decode_any(bytes(fields[name])):
            raise refused(name, _REFUSED[name])
    return fields


def _conversation(asked: GenerateRequest) -> dict[str, Any]:
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    user = {"role": "user", "content": hub_content(asked.prompt or "", asked.images, "images")}
    return {"messages": [*system, user], **hub_format(asked), **hub_effort(asked)}


def _completion(asked: GenerateRequest, fields: json.Fields) -> dict[str, Any]:
    for name in _NOT_RAW:
        if name in fields and json.decode_any(bytes(fields[name])):
            raise refused(name, "not together with raw")
    return {"prompt": asked.prompt}


def _hub_tool(tool: Tool) -> dict[str, Any]:
    given = {name: getattr(tool.function, name) for name in ("name", "description", "parameters", "strict")}
    return {"type": "function", "function": {name: value for name, value in given.items() if value is not None}}


def _request(kind: Kind, asked: Asked, fields: json.Fields, hub: dict[str, Any], *, loads_only: bool) -> Request:
    model, streams = plain_name(asked.model), asked.stream is not False
    sampling = hub_sampling(asked.options)
    stream = {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
    kept = kept_seconds(asked.keep_alive)
    ignored = fields.keys() - set(asked.__struct_fields__) - _REFUSED.keys()
    ignored |= unheeded_options(fields) | ({"keep_alive"} if kept else set())
    if kind == "completion" and asked.think is not None:
        ignored.add("think")
    return Request(
        name=asked.model,
        model=model,
        kind=kind,
        stream=streams,
        body=b"" if loads_only else json.encode({"model": model, **hub, **sampling, **stream}),
        ignored=named(ignored),
        shows_thinking=asked.think is not False,
        keep_loaded_seconds=kept,
    )
