"""From a request to its answer, token by token: what the simulated engine paces out.

The answer is known whole before its first token goes out, so nothing has to be held back for a stop string: the text
simply ends before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import msgspec

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines import simulated_text as texts
from cortex.engines.simulated_chunks import ChatShape, Choice, CompletionShape, Shape, Token, steps
from cortex.engines.simulated_schema import json_text, value_for
from cortex.engines.vectors import encoded, shortened
from cortex.wire import json
from cortex.wire.engine_api import EngineSpec
from cortex.wire.openai import FunctionSpec, Message, NamedTool, ResponseFormat, Tool
from cortex.wire.reasoning import template_kwargs

DEFAULT_TOKENS = 64
REASONING_TOKENS = 16
MAX_CALLS = 128
TEMPLATE_VARIABLES = ("enable_thinking",)

_ECHO = re.compile(r"(?:^|(?<=\s))#echo\s(?P<text>.*)", re.DOTALL)
_WORD = re.compile(r"(?:^|(?<=\s))#(?P<word>think|tokens|tools?)(?:\s+(?P<number>\d{1,9}))?(?!\S)")


class _Sampling(msgspec.Struct, kw_only=True):
    max_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatBody(_Sampling, kw_only=True):
    """What matters here of a chat request."""

    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    @property
    def may_think(self) -> bool:
        """Whether reasoning is not switched off, as in a template that knows `enable_thinking`."""
        told = template_kwargs(self.reasoning_effort, self.chat_template_kwargs, TEMPLATE_VARIABLES)
        return bool(told.get("enable_thinking", True))


class CompletionBody(_Sampling, kw_only=True):
    """What matters here of a completion request."""

    prompt: str | list[str | int]
    logprobs: int | None = None


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """What matters here of an embedding request."""

    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


class RerankBody(msgspec.Struct, kw_only=True):
    """A rerank request, as the node hands it on."""

    query: str
    documents: list[str]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the control words of a text ask for."""

    echo: str | None = None
    think: bool = False
    calls: int = 0
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets: chunks at once after the prefill, then the chunks of each step."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    opening: list[bytes]
    steps: Iterator[list[bytes]]


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)
_embedding = msgspec.json.Decoder(EmbeddingBody)
_rerank = msgspec.json.Decoder(RerankBody)


def answer_chat(body: bytes, spec: EngineSpec, context: int, created: int) -> Answer:
    """Return the answer to the chat request *body*. Raises RequestError."""
    chat = json.decode(body, _chat)
    prompt = texts.render(chat.messages, chat.tools or ())
    images = texts.image_count(chat.messages)
    count = _checked(len(texts.tokens_of(prompt)) + images * texts.IMAGE_TOKENS, context)
    limit = min(chat.max_tokens or context, context - count)
    begun = texts.text_of(chat.messages.pop()) if chat.continue_final_message else ""
    prompt = texts.render(chat.messages, chat.tools or ()) if begun else prompt
    choices = [
        _after(begun, chat, index, texts.dice(spec.model, chat.seed, prompt, index), limit)
        for index in range(chat.n or 1)
    ]
    return _answer(choices, count, ChatShape(spec.model, created, (chat.top_logprobs or 0) if chat.logprobs else None))


def answer_completion(body: bytes, spec: EngineSpec, context: int, created: int) -> Answer:
    """Return the answer to the completion request *body*. Raises RequestError."""
    request = json.decode(body, _completion)
    choices: list[Choice] = []
    total = 0
    for prompt, count in _prompts(request.prompt):
        total += _checked(count, context)
        limit = min(request.max_tokens or context, context - count)
        for at in range(request.n or 1):
            chance = texts.dice(spec.model, request.seed, prompt, at)
            text = _free_text(read_wish(prompt), chance, limit)
            choices.append(_text_choice(len(choices), text, [], limit, request.stops, "text"))
    return _answer(choices, total, CompletionShape(spec.model, created, request.logprobs))


def answer_embedding(body: bytes, spec: EngineSpec, context: int, dimensions: int) -> Answer:
    """Return the vectors for the embedding request *body*. Raises RequestError."""
    request = json.decode(body, _embedding)
    given = request.input
    many = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    inputs = [_input(each) for each in many]
    count = sum(_checked(tokens, context) for _, tokens in inputs)
    vectors = (shortened(texts.vector(text, spec.model, dimensions), request.dimensions) for text, _ in inputs)
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector, request.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    whole = json.encode({"object": "list", "model": spec.model, "data": data, "usage": usage})
    return Answer(count, 0, "stop", [whole], iter(()))


def answer_rerank(body: bytes, context: int) -> Answer:
    """Return the scores of the rerank request *body*: of its words, the share that each document has."""
    request = json.decode(body, _rerank)
    words = texts.words_of(request.query)
    count = sum(_checked(_count(request.query) + _count(document), context) for document in request.documents)
    scores = [len(words & texts.words_of(document)) / max(1, len(words)) for document in request.documents]
    return Answer(count, 0, "stop", [json.encode({"scores": scores})], iter(()))


def read_wish(text: str) -> Wish:
    """Return what the control words in *text* ask for; `#echo` takes all that follows it."""
    echo = _ECHO.search(text)
    found = {match["word"]: match["number"] for match in _WORD.finditer(text[: echo.start()] if echo else text)}
    calls = int(found.get("tools") or 1) if found.keys() & {"tool", "tools"} else 0
    return Wish(
        echo=echo["text"] if echo else None,
        think="think" in found,
        calls=min(calls, MAX_CALLS),
        tokens=int(found["tokens"]) if found.get("tokens") else None,
    )


def _after(begun: str, chat: ChatBody, index: int, chance: Random, limit: int) -> Choice:
    """Return what is left of a choice that has *begun*, where that is how this engine begins it; else all of it."""
    said = len(texts.tokens_of(begun))
    choice = _chat_choice(chat, index, chance, limit + said)
    if "".join(token.text for token in choice.tokens[:said]) != begun:
        return choice
    return replace(choice, tokens=choice.tokens[said:], generated=choice.generated - said)


def _chat_choice(chat: ChatBody, index: int, chance: Random, limit: int) -> Choice:
    wish = read_wish(_last_user_text(chat.messages))
    length = REASONING_TOKENS if wish.think and chat.may_think else 0
    thought = [Token(t, {"reasoning_content": t}) for t in texts.tokens_of(texts.prose(chance, length))]
    called = _called(chat, wish)
    if called:
        return _call_choice(index, called, thought, chance, limit)
    text = _formatted(chat.response_format, chance) or _free_text(wish, chance, limit)
    return _text_choice(index, text, thought, limit, chat.stops, "content", {"role": "assistant", "content": ""})


def _last_user_text(messages: list[Message]) -> str:
    return next((texts.text_of(message) for message in reversed(messages) if message.role == "user"), "")


def _called(chat: ChatBody, wish: Wish) -> list[FunctionSpec]:
    """Return the functions to call, in order. A call that was answered is not made again unless it is forced."""
    functions = [tool.function for tool in chat.tools or () if tool.function is not None]
    choice = chat.tool_choice
    if isinstance(choice, NamedTool):
        functions = [f for f in functions if choice.function and f.name == choice.function.name]
    forced = isinstance(choice, NamedTool) or choice == "required"
    if choice == "required":
        functions.sort(key=lambda function: function.name in _called_before(chat.messages))
    wanted = wish.calls if chat.messages[-1].role == "user" else 0
    count = max(wanted, 1) if forced else wanted
    if not functions or choice == "none":
        return []
    count = min(count, 1) if chat.parallel_tool_calls is False else count
    return [functions[at % len(functions)] for at in range(count)]


def _called_before(messages: list[Message]) -> set[str]:
    return {call.function.name for message in messages for call in message.tool_calls or () if call.function}


def _call_choice(index: int, called: list[FunctionSpec], thought: list[Token], chance: Random, limit: int) -> Choice:
    tokens = [*thought]
    for at, function in enumerate(called):
        arguments = value_for(function.parameters or {"type": "object"}, chance, f"tools.{function.name}.parameters")
        head = {"index": at, "id": f"call_{chance.getrandbits(96):024x}", "type": "function"}
        tokens.append(Token(function.name, _call_delta(head, {"name": function.name, "arguments": ""})))
        pieces = texts.tokens_of(json_text(arguments))
        tokens += [Token(piece, _call_delta({"index": at}, {"arguments": piece})) for piece in pieces]
    reason = "length" if len(tokens) >= limit else "tool_calls"
    tokens = tokens[:limit]
    return Choice(index, tokens, len(tokens), reason, {"role": "assistant", "content": None})


def _call_delta(head: dict[str, Any], function: dict[str, str]) -> dict[str, Any]:
    return {"tool_calls": [{**head, "function": function}]}


def _formatted(wanted: ResponseFormat | None, chance: Random) -> str | None:
    """Return the text that `response_format` asks for, or None if it may be any."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object" or wanted.json_schema is None:
        return json_text({"answer": texts.prose(chance, 8)})
    return json_text(value_for(wanted.json_schema.schema, chance, "response_format.json_schema.schema"))


def _free_text(wish: Wish, chance: Random, limit: int) -> str:
    if wish.echo is not None:
        return wish.echo
    return texts.prose(chance, min(DEFAULT_TOKENS if wish.tokens is None else wish.tokens, limit))


def _text_choice(
    index: int,
    text: str,
    thought: list[Token],
    limit: int,
    stops: list[str],
    field: str,
    role: dict[str, Any] | None = None,
) -> Choice:
    """Return a choice that says *text* after *thought*, ended by the limit or by a stop in the text."""
    pieces = texts.tokens_of(text)
    reason = "length" if len(thought) + len(pieces) >= limit else "stop"
    thought = thought[:limit]
    pieces, generated, stop = texts.cut_at_stop(pieces[: limit - len(thought)], stops)
    tokens = [*thought, *(Token(piece, {field: piece}) for piece in pieces)]
    return Choice(index, tokens, len(thought) + generated, "stop" if stop else reason, role, stop)


def _answer(choices: list[Choice], prompt_tokens: int, shape: Shape) -> Answer:
    opening = [chunk for choice in choices for chunk in shape.opening(choice)]
    opening += [shape.end(choice) for choice in choices if not choice.tokens]
    return Answer(
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(choice.generated for choice in choices),
        finish_reason=choices[0].finish_reason,
        opening=opening,
        steps=steps(choices, shape),
    )


def _checked(tokens: int, context: int) -> int:
    if tokens > context:
        raise ContextLengthExceeded(tokens, context)
    return tokens


def _prompts(prompt: str | list[str | int]) -> list[tuple[str, int]]:
    """Return each prompt as text, with its tokens counted."""
    if isinstance(prompt, list) and prompt and all(isinstance(each, str) for each in prompt):
        return [_text_input(str(each)) for each in prompt]
    return [_text_input(prompt) if isinstance(prompt, str) else _id_input(prompt, "prompt")]


def _input(given: str | int | list[Any]) -> tuple[str, int]:
    if isinstance(given, int):
        raise BadRequest("input: expected token ids, or strings, and not both", param="input")
    return _text_input(given) if isinstance(given, str) else _id_input(given, "input")


def _text_input(text: str) -> tuple[str, int]:
    return text, _count(text)


def _count(text: str) -> int:
    return len(texts.tokens_of(text))


def _id_input(ids: list[Any], param: str) -> tuple[str, int]:
    return texts.prompt_of_ids(texts.check_ids(ids, param)), len(ids)
