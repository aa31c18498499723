"""A Responses request: what is honoured, what is refused by name, what is ignored and named.

Source: the OpenAI API reference (Responses), and what Codex and the SDKs were seen to send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.openai import MAX_TOKENS
from cortex.wire.responses.conversation import read_conversation
from cortex.wire.responses.items import Kind
from cortex.wire.responses.reading import decode_at
from cortex.wire.responses.tools import ToolChoice, ToolName, Tools, choose, read_tools

_SEALED_REASONING = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_Text = Annotated[str, Meta(min_length=1)]


class Reasoning(msgspec.Struct):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None

    @property
    def shows_summary(self) -> bool:
        """Whether the client asked to see reasoning as a summary."""
        return (self.summary or self.generate_summary or "none") != "none"


class Format(msgspec.Struct):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextConfig(msgspec.Struct):
    """`text`."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Body(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`. None stands for absent."""

    model: _Text
    input: str | list[msgspec.Raw] | None = None
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


class _Context(msgspec.Struct):
    """What a request leans on that is not in it."""

    previous_response_id: str | None = None
    input: str | list[msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was read whole: the hub's body, and what the shape of the answer depends on."""

    model: str
    stream: bool
    body: bytes
    ignored: tuple[str, ...]
    names: Mapping[str, ToolName]
    shown: dict[str, Any]
    items: tuple[msgspec.Raw, ...]
    store: bool
    previous_id: str | None
    prompt_cache_key: str | None
    summary: bool
    sealed: bool


# Common sampling extras: the hub reads them, so they pass.
_EXTRAS = frozenset(
    {"seed", "stop", "top_k", "min_p", "typical_p", "repeat_penalty", "frequency_penalty", "presence_penalty"}
    | {"logit_bias"}
)
# These change the answer, or promise what is not kept, and are not offered: refused, never dropped.
_REFUSED = {
    "background": "not supported; a response is answered while the client waits",
    "conversation": "not supported; use previous_response_id, or send the items",
    "prompt": "templates are not supported; send instructions and input",
    "moderation": "not supported",
}
# The hub's own word for a field, where only the name differs.
_RENAMED = {"max_output_tokens": "max_tokens"}
_AS_THEY_ARE = ("temperature", "top_p", "parallel_tool_calls", "max_output_tokens")
_REPEATED = frozenset(
    {"instructions", "max_output_tokens", "temperature", "top_p", "previous_response_id"}
    | {"prompt_cache_key", "safety_identifier", "user", "reasoning", "text", "tool_choice"}
)

_body = msgspec.json.Decoder(Body)
_context = msgspec.json.Decoder(_Context)
_kind = msgspec.json.Decoder(Kind)


def previous_id(body: bytes) -> str | None:
    """Return the id of the response that *body* continues, if it does. Raises BadRequest."""
    return json.decode(body, _context).previous_response_id


def referenced_ids(body: bytes) -> tuple[str, ...]:
    """Return the ids of the items that *body* names without sending them. Raises BadRequest."""
    given = json.decode(body, _context).input
    if not isinstance(given, list):
        return ()
    kinds = [decode_at(raw, _kind, f"input[{at}]") for at, raw in enumerate(given)]
    return tuple(kind.id for kind in kinds if kind.name == "item_reference" and kind.id)


def read_request(body: bytes, previous: Sequence[msgspec.Raw], references: Mapping[str, msgspec.Raw]) -> Request:
    """Return *body* checked field by field, after the items of *previous*. Raises BadRequest naming what is wrong."""
    fields = json.fields_of(body)
    for name in _REFUSED.keys() & fields.keys():
        if bytes(fields[name]) not in (b"null", b"false"):
            raise BadRequest(f"{name}: {_REFUSED[name]}", param=name, code="unsupported_parameter")
    read = json.decode(body, _body)
    if read.previous_response_id is not None and not previous:
        raise _lost(read.previous_response_id)
    own = _items(read.input, references)
    if not own and not previous:
        raise BadRequest("input: is missing", param="input")
    tools = read_tools(read.tools or [])
    messages, dropped = read_conversation(read.instructions, [*previous, *own], first=-len(previous))
    hub = {"model": read.model, "messages": messages, **_hub_fields(read, tools), **json.pick(fields, _EXTRAS)}
    left_out = [json.printable(name) for name in (*dropped, *tools.ignored, *_unkept(read))]
    return Request(
        model=read.model,
        stream=bool(read.stream),
        body=json.encode(hub),
        ignored=tuple(sorted({*left_out, *_unknown(fields)})),
        names=tools.names,
        shown=_shown(read, fields, tools, left_out),
        items=(*previous, *own),
        store=read.store is not False,
        previous_id=read.previous_response_id,
        prompt_cache_key=read.prompt_cache_key,
        summary=read.reasoning is not None and read.reasoning.shows_summary,
        sealed=_SEALED_REASONING in (read.include or ()),
    )


def _lost(response_id: str) -> BadRequest:
    return BadRequest(
        f"Previous response with id '{response_id[:80]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _items(given: str | list[msgspec.Raw] | None, references: Mapping[str, msgspec.Raw]) -> list[msgspec.Raw]:
    """Return the input as items, references replaced by what they name. Raises BadRequest."""
    if given is None:
        return []
    if isinstance(given, str):
        part = {"type": "input_text", "text": given}
        return [msgspec.Raw(json.encode({"type": "message", "role": "user", "content": [part]}))]
    return [_resolved(raw, references, f"input[{at}]") for at, raw in enumerate(given)]


def _resolved(raw: msgspec.Raw, references: Mapping[str, msgspec.Raw], at: str) -> msgspec.Raw:
    kind = decode_at(raw, _kind, at)
    if kind.name != "item_reference":
        return raw
    found = references.get(kind.id or "")
    if found is None:
        raise BadRequest(
            f"{at}: Item with id '{str(kind.id)[:80]}' not found.", param=f"{at}.id", code="item_not_found"
        )
    return found


def _hub_fields(read: Body, tools: Tools) -> dict[str, Any]:
    """Return everything of the hub's body but the model, the messages and the extras."""
    hub = {_RENAMED.get(name, name): getattr(read, name) for name in _AS_THEY_ARE}
    functions, choice = choose(tools, read.tool_choice or "auto")
    if functions or choice not in ("auto", "none"):
        hub |= {"tools": functions, "tool_choice": None if read.tool_choice is None else choice}
    if read.top_logprobs or _LOGPROBS in (read.include or ()):
        hub |= {"logprobs": True, "top_logprobs": read.top_logprobs}
    if read.text is not None:
        hub |= {"response_format": _hub_format(read.text.format), "verbosity": read.text.verbosity}
    if read.reasoning is not None:
        hub["reasoning_effort"] = read.reasoning.effort
    if read.stream:
        hub |= {"stream": True, "stream_options": {"include_usage": True}}
    return {name: value for name, value in hub.items() if value is not None}


def _hub_format(wanted: Format | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.schema is None:
        raise BadRequest("text.format.schema: is missing", param="text.format.schema")
    named = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict, "description": wanted.description}
    return {"type": "json_schema", "json_schema": {key: value for key, value in named.items() if value is not None}}


def _unkept(read: Body) -> list[str]:
    """Return what was asked for in known fields and is not done."""
    unkept = [f"include.{each}" for each in read.include or () if each not in (_SEALED_REASONING, _LOGPROBS)]
    if read.truncation == "auto":
        unkept.append("truncation")
    if read.service_tier not in (None, "auto", "default"):
        unkept.append("service_tier")
    return unkept


def _unknown(fields: json.Fields) -> set[str]:
    return {json.printable(name) for name in fields.keys() - set(Body.__struct_fields__) - _REFUSED.keys() - _EXTRAS}


def _shown(read: Body, fields: json.Fields, tools: Tools, left_out: Sequence[str]) -> dict[str, Any]:
    """Return what the answer repeats of the request, and `warnings` for what the model was not given.

    Values are read and not passed on raw: a line break between them would end the event that carries them.
    """
    sent = {name: json.decode_any(bytes(raw)) for name, raw in json.pick(fields, _REPEATED).items()}
    sent = {name: value for name, value in sent.items() if value is not None}
    forced_away = any(name.startswith("tool_choice.") for name in tools.ignored)
    warnings = [f"{name}: ignored, not offered here" for name in dict.fromkeys(left_out)]
    return {
        **{name: sent.get(name) for name in sorted(_REPEATED)},
        "truncation": "disabled",
        "metadata": read.metadata or {},
        "parallel_tool_calls": read.parallel_tool_calls is not False,
        "reasoning": sent.get("reasoning", {"effort": None, "summary": None}),
        "store": read.store is not False,
        "text": sent.get("text", {"format": {"type": "text"}}),
        "tool_choice": "auto" if forced_away else sent.get("tool_choice", "auto"),
        "tools": tools.shown,
        "top_logprobs": read.top_logprobs or 0,
        **({"warnings": warnings} if warnings else {}),
    }
