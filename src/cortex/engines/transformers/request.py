"""What one request asks of a model, as its engine needs it: prompts, how tokens are chosen, what ends the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.call_or_answer import CallOrAnswer
from cortex.engines.forced_tools import ForcedCall, forced_call
from cortex.engines.json_schemas import check_schema
from cortex.engines.legacy_logprobs import LegacyLogprobs
from cortex.engines.one_call import OneCall
from cortex.engines.transformers.prompts import Prompts, texts_of
from cortex.engines.transformers.sampling import Sampling

Translator = CallOrAnswer | ForcedCall | LegacyLogprobs | OneCall


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read whole. *shape* is what its chunks look like before *translator* has made others of them."""

    shape: str
    prompts: list[list[int]]
    choices: int
    sampling: Sampling
    stops: list[str]
    limits: list[int]
    schema: tuple[dict[str, Any], str] | None = None
    tools: Mapping[str, dict[str, Any]] | None = None
    thinking: bool = False
    translator: Translator | None = None

    @property
    def prompt_tokens(self) -> int:
        """The tokens of all prompts, each counted once."""
        return sum(map(len, self.prompts))


def read(
    kind: str,
    fields: dict[str, Any],
    prompts: Prompts,
    defaults: Mapping[str, Any],
    context: int,
    translator: Translator | None = None,
) -> Asked:
    """Return what *fields* ask. Raises BadRequest, and ContextLengthExceeded for a prompt that cannot fit.

    A *translator* of the caller's takes the place of the request's own.
    """
    stop = fields.get("stop") or []
    common: dict[str, Any] = {
        "choices": fields.get("n") or 1,
        "sampling": sampling_of(fields, defaults),
        "stops": [stop] if isinstance(stop, str) else stop,
    }
    if kind == "chat":
        return _chat(fields, prompts, context, common, translator)
    texts = texts_of(fields["prompt"])
    tokens = [prompts.tokens(text) if isinstance(text, str) else list(text) for text in texts]
    limits = [_limit(fields, len(each), context) for each in tokens]
    legacy = LegacyLogprobs() if fields.get("logprobs") is not None else None
    return Asked("completion", tokens, limits=limits, translator=legacy, **common)


def _chat(
    fields: dict[str, Any], prompts: Prompts, context: int, common: dict[str, Any], translator: Translator | None
) -> Asked:
    _check_schemas(fields)
    forced = forced_call(fields)
    tokens, thinking = prompts.chat_tokens(fields)
    limits = [_limit(fields, len(tokens), context)]
    if forced is not None:
        schema = (forced.schema, "tools")
        return Asked("completion", [tokens], limits=limits, schema=schema, translator=forced, **common)
    called = fields.get("tools") and fields.get("tool_choice") != "none"
    tools = {t["function"]["name"]: t["function"].get("parameters") or {} for t in fields["tools"]} if called else None
    return Asked(
        "chat",
        [tokens],
        limits=limits,
        schema=_format_of(fields.get("response_format") or {}),
        tools=tools,
        thinking=thinking,
        translator=translator or (OneCall() if tools and fields.get("parallel_tool_calls") is False else None),
        **common,
    )


def _check_schemas(fields: dict[str, Any]) -> None:
    for at, tool in enumerate(fields.get("tools") or ()):
        check_schema(tool["function"].get("parameters") or {}, f"tools[{at}].function.parameters", enforced=False)


def _format_of(wanted: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    if wanted.get("type") == "json_object":
        return {"type": "object"}, "response_format"
    if wanted.get("type") != "json_schema":
        return None
    at = "response_format.json_schema.schema"
    schema: dict[str, Any] = wanted["json_schema"]["schema"]
    check_schema(schema, at, enforced=False)
    return schema, at


def _limit(fields: Mapping[str, Any], prompt_tokens: int, context: int) -> int:
    """Return how many tokens may follow the prompt. Raises ContextLengthExceeded if none may."""
    if prompt_tokens >= context:
        raise ContextLengthExceeded(prompt_tokens, context)
    if not prompt_tokens:
        raise BadRequest("prompt: nothing to go on from: it has no tokens", param="prompt")
    wanted = fields.get("max_completion_tokens") or fields.get("max_tokens")
    room = context - prompt_tokens
    return min(wanted, room) if wanted else room


def sampling_of(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> Sampling:
    """Return how tokens are chosen: as *fields* say, else as the model's own *defaults* for generation do."""

    def known(name: str, own: str, otherwise: float) -> Any:
        value = fields.get(name)
        value = defaults.get(own) if value is None else value
        return otherwise if value is None else value

    logprobs = fields.get("logprobs")
    told = fields.get("top_logprobs") or 0 if logprobs is True else logprobs if type(logprobs) is int else None
    greedy = defaults.get("do_sample") is False
    return Sampling(
        temperature=fields.get("temperature", 0.0 if greedy else defaults.get("temperature") or 1.0),
        top_p=known("top_p", "top_p", 1.0),
        top_k=max(0, known("top_k", "top_k", 0)),
        min_p=known("min_p", "min_p", 0.0),
        typical_p=known("typical_p", "typical_p", 1.0) or 1.0,
        repeat_penalty=known("repeat_penalty", "repetition_penalty", 1.0) or 1.0,
        presence_penalty=fields.get("presence_penalty") or 0.0,
        frequency_penalty=fields.get("frequency_penalty") or 0.0,
        logit_bias={int(token): bias for token, bias in (fields.get("logit_bias") or {}).items()},
        seed=fields.get("seed"),
        top_logprobs=told,
    )
