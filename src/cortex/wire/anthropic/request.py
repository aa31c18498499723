"""Anthropic's requests as the hub's: field by field honoured, refused by name, or named as ignored.

`thinking` decides what the client sees (see `thinking`), and whether the model reasons where its template lets a client
say so: `disabled` is the hub's effort `none`; with `enabled` and `adaptive` it is `output_config.effort`, and without
one `enabled` is `medium`. A budget of tokens is named as ignored. A conversation that ends with the assistant is
refused: not every engine could go on from there, and an answer from the start would not be what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cortex.core.errors import BadRequest, UpstreamFailed
from cortex.wire import json
from cortex.wire.anthropic.content import refused
from cortex.wire.anthropic.conversation import hub_messages
from cortex.wire.anthropic.schema import MessagesRequest, Prompt
from cortex.wire.anthropic.tools import hub_choice, hub_tools

T = TypeVar("T")

# What Anthropic's API does not have, and the hub's does, under the same name: the hub checks them.
_PASSED = frozenset(
    {"seed", "min_p", "typical_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "logit_bias"}
)
_READ = frozenset(MessagesRequest.__struct_fields__) | _PASSED
_COUNTED = frozenset(MessagesRequest.__struct_fields__)

_messages = msgspec.json.Decoder(MessagesRequest)
_prompt = msgspec.json.Decoder(Prompt)


class _Count(msgspec.Struct):
    count: int


_count = msgspec.json.Decoder(_Count)


@dataclass(frozen=True, slots=True)
class HubRequest:
    """A request that was read whole: the hub's body, and what it leaves out."""

    asked: MessagesRequest
    body: bytes
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counting:
    """A request to count tokens: *body* is for the hub's `/tokenize`."""

    model: str
    body: bytes
    ignored: tuple[str, ...]

    def answer(self, counted: bytes) -> bytes:
        """Return Anthropic's answer for what `/tokenize` answered. Raises UpstreamFailed if that is no count."""
        try:
            return json.encode({"input_tokens": _count.decode(counted).count})
        except msgspec.MsgspecError:
            raise UpstreamFailed("the node's count of tokens could not be read") from None


def read_request(body: bytes) -> HubRequest:
    """Return the hub's request for the body of `POST /v1/messages`. Raises BadRequest."""
    fields = _fields(body, ("model", "max_tokens", "messages"))
    asked = _decode(body, _messages)
    ignored = fields.keys() - _READ
    if asked.messages[-1].role == "assistant":
        raise refused(
            "messages",
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        )
    hub = {**_prompt_of(asked, ignored), **_sampling(asked), **_stream(asked)}
    if asked.tool_choice is not None:
        hub |= hub_choice(asked.tool_choice, hub.get("tools", []))
    hub |= _format(asked)
    hub |= {name: fields[name] for name in _PASSED & fields.keys()}
    ignored |= _unheeded(asked)
    return HubRequest(asked, json.encode(hub), _named(ignored))


def count_tokens(body: bytes) -> Counting:
    """Return what the body of `POST /v1/messages/count_tokens` asks the hub's `/tokenize`. Raises BadRequest."""
    fields = _fields(body, ("model", "messages"))
    prompt = _decode(body, _prompt)
    ignored = fields.keys() - _COUNTED
    hub = _prompt_of(prompt, ignored)
    return Counting(prompt.model, json.encode(hub), _named(ignored))


def _fields(body: bytes, required: tuple[str, ...]) -> json.Fields:
    fields = json.fields_of(body)
    for name in required:
        if name not in fields:
            raise BadRequest(f"{name}: Field required", param=name)
    return fields


def _decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return *body* decoded. Raises BadRequest with the path as Anthropic writes it."""
    try:
        return json.decode(body, decoder)
    except BadRequest as error:
        if error.param is None:
            raise
        at = error.param.replace("[", ".").replace("]", "")
        raise BadRequest(at + error.message[len(error.param) :], param=at, code=error.code) from None


def _prompt_of(prompt: Prompt, ignored: set[str]) -> dict[str, Any]:
    tools = hub_tools(prompt.tools, ignored)
    hub: dict[str, Any] = {"model": prompt.model, "messages": hub_messages(prompt, ignored)}
    return {**hub, **({"tools": tools} if tools else {}), **_effort(prompt)}


def _effort(prompt: Prompt) -> dict[str, Any]:
    thinking = prompt.thinking.type if prompt.thinking is not None else None
    wanted = _wanted_effort(prompt)
    if thinking == "disabled":
        return {"reasoning_effort": "none"}
    if thinking is not None and wanted is not None:
        return {"reasoning_effort": wanted}
    return {"reasoning_effort": "medium"} if thinking == "enabled" else {}


def _wanted_effort(prompt: Prompt) -> str | None:
    wanted = prompt.output_config.effort if prompt.output_config is not None else None
    return wanted if wanted in ("low", "medium", "high", "xhigh", "max") else None


def _sampling(asked: MessagesRequest) -> dict[str, Any]:
    wanted = {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _stream(asked: MessagesRequest) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if asked.stream else {}


def _format(asked: MessagesRequest) -> dict[str, Any]:
    wanted = (asked.output_config.format if asked.output_config else None) or asked.output_format
    if wanted is None:
        return {}
    schema = {"name": "output", "schema": wanted.schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _unheeded(asked: MessagesRequest) -> set[str]:
    """Return the names of fields that are read, and whose wish cannot be passed on."""
    names = set()
    if asked.thinking is not None and asked.thinking.budget_tokens is not None:
        names.add("thinking.budget_tokens")
    effort = asked.output_config.effort if asked.output_config is not None else None
    if effort is not None and effort != _effort(asked).get("reasoning_effort"):
        names.add("output_config.effort")
    return names


def _named(ignored: set[str]) -> tuple[str, ...]:
    """Return *ignored* as a header may have it: clients make up names."""
    return tuple(sorted({json.printable(name) for name in ignored}))
