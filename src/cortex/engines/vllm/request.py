"""What a client asks, in the words of vLLM's own serving layer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.json_schemas import check_schema
from cortex.wire.reasoning import LEVEL, template_kwargs

_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "n", "seed", "stop"),
    *("frequency_penalty", "presence_penalty", "logit_bias", "logprobs"),
)
_CHAT = ("messages", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls")


def limit_of(fields: Mapping[str, Any]) -> int | None:
    """Return the tokens that the answer may have, if the client says. vLLM itself would refuse what does not fit."""
    limit: int | None = fields.get("max_completion_tokens") or fields.get("max_tokens")
    return limit


def completion(fields: Mapping[str, Any], model: str, request_id: str) -> dict[str, Any]:
    """Return the fields of vLLM's `CompletionRequest`. Raises BadRequest."""
    return {"prompt": fields["prompt"], **_common(fields, model, request_id)}


def chat(
    fields: Mapping[str, Any],
    model: str,
    request_id: str,
    variables: Collection[str],
    *,
    harmony: bool = False,
    shows_tools: bool = False,
) -> dict[str, Any]:
    """Return the fields of vLLM's `ChatCompletionRequest`, for a template with *variables*. Raises BadRequest.

    Models of the *harmony* format have no template in vLLM: how long they reason is a field of its own. Tools that may
    not be called are left out of the prompt, unless it is to be the one that *shows_tools*.
    """
    asked = _common(fields, model, request_id) | {name: fields[name] for name in _CHAT if name in fields}
    if not fields.get("tools") or (fields.get("tool_choice") == "none" and not shows_tools):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            asked.pop(name, None)
    for at, tool in enumerate(fields.get("tools") or ()):
        check_schema(tool["function"].get("parameters") or {}, f"tools[{at}].function.parameters", enforced=False)
    if (wanted := _format_of(fields.get("response_format") or {})) is not None:
        asked["response_format"] = wanted
    told = template_kwargs(fields.get("reasoning_effort"), fields.get("chat_template_kwargs"), variables)
    if harmony and LEVEL in told:
        asked["reasoning_effort"] = told.pop(LEVEL)
    if told:
        asked["chat_template_kwargs"] = told
    if fields.get("continue_final_message"):
        asked |= {"continue_final_message": True, "add_generation_prompt": False}
    return asked


def _common(fields: Mapping[str, Any], model: str, request_id: str) -> dict[str, Any]:
    if fields.get("typical_p", 1.0) not in (0.0, 1.0):
        raise BadRequest("typical_p: engine vllm does not have it", param="typical_p", code="unsupported_parameter")
    asked = {name: fields[name] for name in _SAMPLING if name in fields}
    if (repeat := fields.get("repeat_penalty")) is not None:
        if repeat <= 0:
            raise BadRequest("repeat_penalty: expected more than 0; 1 is none", param="repeat_penalty")
        asked["repetition_penalty"] = repeat
    if asked.get("n", 1) > 1 and asked.get("temperature") == 0:
        asked |= {"temperature": 1.0, "top_k": 1}  # the likeliest token: vLLM refuses several choices of no temperature
    return {
        **asked,
        "model": model,
        "request_id": request_id,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _format_of(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    if wanted.get("type") == "json_object":
        return {"type": "json_object"}
    if wanted.get("type") != "json_schema":
        return None
    given = wanted["json_schema"]
    check_schema(given["schema"], "response_format.json_schema.schema", enforced=False)
    return {"type": "json_schema", "json_schema": {"name": given.get("name") or "answer", "schema": given["schema"]}}
