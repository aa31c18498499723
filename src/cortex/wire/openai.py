"""OpenAI's chat, completions and embeddings requests, and rerank: what is honoured, refused, or ignored by name.

The gateway reads only the `Head` of a request that passes through. The node reads all of it: every field that changes
the answer is honoured or refused with its name; what does not change it is ignored, and named in `x-cortex-ignored`.
An engine sees an allow-list of fields, as the client sent them.

Source: the OpenAI API reference (chat, completions, embeddings), with llama.cpp's and vLLM's common sampling extras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.engine_api import Kind
from cortex.wire.images import check_image
from cortex.wire.reasoning import Effort, Scalar, TemplateKwargs
from cortex.wire.rerank import RERANK, RerankRequest, read_rerank
from cortex.wire.template_chat import has_null, only_functions, with_known_words

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
KINDS: dict[str, Kind] = {CHAT: "chat", COMPLETION: "completion", EMBEDDING: "embedding", RERANK: "rerank"}

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_TOKENS = 2**31 - 1
# What an image is unpacked to is bounded by its pixels: these are 200 MB.
MAX_IMAGE_PIXELS, MAX_IMAGE_BYTES = 50_000_000, 32 << 20

_Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
_Unit = Annotated[float, Meta(ge=0.0, le=1.0)]
_Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
_Text = Annotated[str, Meta(min_length=1)]
_Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
_TokenKey = Annotated[str, Meta(pattern=r"^-?[0-9]{1,9}\Z")]
_TokenIds = Annotated[list[int], Meta(min_length=1)]
_ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}\Z")]


class Head(msgspec.Struct):
    """What the gateway needs to know of a request to route it, and to set tokens aside for it."""

    model: str
    stream: bool | None = None
    max_tokens: Any = None
    max_completion_tokens: Any = None

    @property
    def limit(self) -> int | None:
        """The tokens that the answer may take, where the client says; whether it says so rightly is the node's."""
        if type(self.max_completion_tokens) is int:
            return self.max_completion_tokens
        return self.max_tokens if type(self.max_tokens) is int else None


class StreamOptions(msgspec.Struct):
    """`stream_options`; the usage chunk is sent only when asked for."""

    include_usage: bool | None = None


class FunctionCall(msgspec.Struct):
    """A call that the assistant made in an earlier turn."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """An entry of an assistant message's `tool_calls`."""

    function: FunctionCall
    id: str = ""


class ImageUrl(msgspec.Struct):
    """An image, by URL."""

    url: str


class Part(msgspec.Struct):
    """A content part of a message."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class Message(msgspec.Struct):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionSpec(msgspec.Struct):
    """A function that the model may call."""

    name: _ToolName
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """An entry of `tools`."""

    type: str
    function: FunctionSpec | None = None


class NamedFunction(msgspec.Struct):
    """The function of a forced call."""

    name: str


class NamedTool(msgspec.Struct):
    """`tool_choice` as an object."""

    type: str
    function: NamedFunction | None = None


class JsonSchema(msgspec.Struct):
    """`response_format.json_schema`."""

    schema: dict[str, Any]
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """What chat and completions share. None stands for absent, as the SDKs send it."""

    model: _Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: _Unit | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: _Unit | None = None
    typical_p: _Unit | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.0, le=10.0)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Text | Annotated[list[_Text], Meta(max_length=MAX_STOPS)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[_TokenKey, _Bias], Meta(max_length=1000)] | None = None


class ChatRequest(_Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: _Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    continue_final_message: bool | None = None


class CompletionRequest(_Sampling, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[int | str]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    model: _Text
    input: _Text | Annotated[list[_Text | int | _TokenIds], Meta(min_length=1, max_length=1_000_000)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


_SAMPLING = frozenset(_Sampling.__struct_fields__) - {"model", "stream", "stream_options"}
_FORWARDED: dict[Kind, frozenset[str]] = {
    "chat": _SAMPLING
    | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"}
    | {"response_format", "reasoning_effort", "chat_template_kwargs", "continue_final_message"},
    "completion": _SAMPLING | {"prompt", "logprobs"},
    "embedding": frozenset({"input", "encoding_format", "dimensions"}),
}
_READ: dict[Kind, frozenset[str]] = {
    "chat": frozenset(ChatRequest.__struct_fields__),
    "completion": frozenset(CompletionRequest.__struct_fields__),
    "embedding": frozenset(EmbeddingRequest.__struct_fields__),
}
# These change the answer, or reach into an engine, and are not offered: refused, never dropped.
_REFUSED = {
    "chat_template": "a template comes with its model, never with a request",
    "prompt_embeds": "not supported",
    "grammar": "use response_format with a json_schema",
    "json_schema": "use response_format with a json_schema",
    "guided_json": "use response_format with a json_schema",
    "guided_regex": "use response_format with a json_schema",
    "guided_choice": "use response_format with a json_schema",
    "guided_grammar": "use response_format with a json_schema",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "no model here answers with audio",
    "best_of": "only 1 is supported",
    "ignore_eos": "not supported",
    "min_tokens": "not supported",
    "repetition_penalty": "use repeat_penalty",
    "mirostat": "not supported",
    "samplers": "not supported",
    "n_discard": "not supported",
    "n_keep": "not supported",
    "n_predict": "use max_tokens",
}

_head = msgspec.json.Decoder(Head)
_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)
_embedding = msgspec.json.Decoder(EmbeddingRequest)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was read whole: what the engine gets, and what the answer's shape depends on."""

    kind: Kind
    model: str
    stream: bool
    include_usage: bool
    body: bytes
    ignored: tuple[str, ...]
    max_tokens: int | None = None
    sampling: dict[str, Any] | None = None
    has_images: bool = False
    choices: int = 1
    effort: str | None = None
    template_kwargs: dict[str, Scalar] | None = None
    rerank: RerankRequest | None = None


def read_head(body: bytes) -> Head:
    """Return what routing needs of *body*, without reading the rest. Raises BadRequest."""
    try:
        head = json.decode(body, _head)
    except BadRequest as error:
        if "missing required field" in error.message:
            raise BadRequest("the request names no model", param="model", code="missing_model_field") from None
        raise
    if not head.model:
        raise BadRequest("the request names no model", param="model", code="missing_model_field")
    return head


def read_request(kind: Kind, body: bytes) -> Request:
    """Return *body* checked field by field. Raises BadRequest naming the parameter that is wrong."""
    if kind == "rerank":
        return _read_rerank(body)
    fields = json.fields_of(body)
    for name in _REFUSED.keys() & fields.keys():
        if bytes(fields[name]) not in (b"null", b"false") and not (name == "best_of" and bytes(fields[name]) == b"1"):
            raise BadRequest(f"{name}: {_REFUSED[name]}", param=name, code="unsupported_parameter")
    if kind == "chat":
        return _read_chat(body, fields)
    if kind == "completion":
        return _read_completion(body, fields)
    return _read_embedding(body, fields)


def _read_chat(body: bytes, fields: json.Fields) -> Request:
    chat = json.decode(body, _chat)
    for at, message in enumerate(chat.messages):
        _check_message(message, f"messages[{at}]")
    _check_tools(chat)
    if chat.top_logprobs and not chat.logprobs:
        raise BadRequest("top_logprobs: needs logprobs to be true", param="top_logprobs")
    if chat.continue_final_message and chat.messages[-1].role != "assistant":
        raise BadRequest("continue_final_message: the last message is no assistant's", param="continue_final_message")
    wanted = chat.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is None:
        raise BadRequest("response_format.json_schema: is missing", param="response_format.json_schema")
    picked = json.pick(fields, _FORWARDED["chat"])
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    completion_limit = picked.pop("max_completion_tokens", None)
    if completion_limit is not None and chat.max_completion_tokens is not None:
        picked["max_tokens"] = completion_limit
    if any(m.role in ("developer", "function") or m.tool_calls for m in chat.messages) or has_null(picked["messages"]):
        picked["messages"] = with_known_words(picked["messages"])
    if chat.tools is not None and (any(t.function is None for t in chat.tools) or has_null(picked["tools"])):
        picked["tools"] = only_functions(picked["tools"])
    return Request(
        kind="chat",
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream and chat.stream_options and chat.stream_options.include_usage),
        body=json.encode(_without_nulls(picked)),
        ignored=_ignored("chat", fields) + _ignored_tools(chat),
        max_tokens=limit,
        sampling=_sampling_of(chat),
        has_images=any(_has_image(m) for m in chat.messages),
        choices=chat.n or 1,
        effort=chat.reasoning_effort,
        template_kwargs=chat.chat_template_kwargs,
    )


def _read_completion(body: bytes, fields: json.Fields) -> Request:
    request = json.decode(body, _completion)
    if not request.prompt or (isinstance(request.prompt, list) and "" in request.prompt):
        raise BadRequest("prompt: is empty", param="prompt")
    _check_uniform(request.prompt, "prompt")
    if request.echo:
        raise BadRequest("echo: not supported", param="echo", code="unsupported_parameter")
    if request.suffix:
        raise BadRequest("suffix: not supported", param="suffix", code="unsupported_parameter")
    return Request(
        kind="completion",
        model=request.model,
        stream=bool(request.stream),
        include_usage=bool(request.stream and request.stream_options and request.stream_options.include_usage),
        body=json.encode(_without_nulls(json.pick(fields, _FORWARDED["completion"]))),
        ignored=_ignored("completion", fields),
        max_tokens=request.max_tokens,
        sampling=_sampling_of(request),
        choices=(request.n or 1) * _prompts_in(request.prompt),
    )


def _read_embedding(body: bytes, fields: json.Fields) -> Request:
    request = json.decode(body, _embedding)
    _check_uniform(request.input, "input")
    return Request(
        kind="embedding",
        model=request.model,
        stream=False,
        include_usage=False,
        body=json.encode(_without_nulls(json.pick(fields, _FORWARDED["embedding"]))),
        ignored=_ignored("embedding", fields),
    )


def _read_rerank(body: bytes) -> Request:
    asked = read_rerank(body)
    return Request(
        kind="rerank",
        model=asked.model,
        stream=False,
        include_usage=False,
        body=json.encode({"query": asked.query, "documents": asked.documents}),
        ignored=asked.ignored,
        rerank=asked,
    )


def _check_uniform(value: str | list[Any], param: str) -> None:
    """Raise BadRequest unless the list *value* is all texts, all token ids, or all lists of token ids."""
    if isinstance(value, list) and len({type(item) for item in value}) > 1:
        raise BadRequest(f"{param}: expected one kind of item, texts or token ids", param=param)


def _prompts_in(prompt: str | list[int | str]) -> int:
    return len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1


def _check_message(message: Message, at: str) -> None:
    if message.role == "tool" and not message.tool_call_id:
        raise BadRequest(f"{at}.tool_call_id: is missing", param=f"{at}.tool_call_id")
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            _check_part(part, f"{at}.content[{index}]")
    elif message.content is None and message.role != "assistant":
        raise BadRequest(f"{at}.content: is missing", param=f"{at}.content")


def _check_part(part: Part, at: str) -> None:
    if part.type in ("text", "refusal"):
        if part.type == "text" and part.text is None:
            raise BadRequest(f"{at}.text: is missing", param=f"{at}.text")
        return
    if part.type == "image_url":
        image = part.image_url
        url = (image.url if isinstance(image, ImageUrl) else image) or ""
        where = f"{at}.image_url"
        check_image(url, part=where, allow_urls=False, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES)
        return
    raise BadRequest(f"{at}.type: {part.type[:40]!r} is not supported; use text or image_url", param=f"{at}.type")


def _check_tools(chat: ChatRequest) -> None:
    names = [tool.function.name for tool in chat.tools or () if tool.function is not None]
    for at, tool in enumerate(chat.tools or ()):
        if tool.type == "function" and tool.function is None:
            raise BadRequest(f"tools[{at}].function: is missing", param=f"tools[{at}].function")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"tools: {twice!r} is named twice", param="tools")
    choice = chat.tool_choice
    if isinstance(choice, NamedTool):
        if choice.function is None or choice.function.name not in names:
            wanted = choice.function.name if choice.function else choice.type
            raise BadRequest(f"tool_choice: {wanted[:60]!r} is not one of the tools", param="tool_choice")
    elif choice == "required" and not names:
        raise BadRequest("tool_choice: 'required' without any tools", param="tool_choice")


def _has_image(message: Message) -> bool:
    return isinstance(message.content, list) and any(part.type == "image_url" for part in message.content)


def _ignored_tools(chat: ChatRequest) -> tuple[str, ...]:
    return tuple(sorted({f"tools.{t.type}" for t in chat.tools or () if t.function is None}))


def _without_nulls(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    return {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}


def _ignored(kind: Kind, fields: json.Fields) -> tuple[str, ...]:
    return tuple(sorted(json.printable(name) for name in fields.keys() - _READ[kind] - _REFUSED.keys()))


def _sampling_of(request: _Sampling) -> dict[str, Any]:
    """Return the sampling parameters that the client set, for the log."""
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "n", "frequency_penalty", "presence_penalty")
    return {name: getattr(request, name) for name in names if getattr(request, name) is not None}
