"""Which of vLLM's parsers reads a model's tool calls, and which its reasoning: by its family and its template. Pure.

A wrong guess would show a client the model's own marks as text, so only what is known is guessed; `options` name any
other, and `none` switches one off.
"""

from __future__ import annotations

from collections.abc import Callable

NONE = "none"

Knows = Callable[[str], bool]


def _has(*marks: str) -> Knows:
    return lambda template: all(mark in template for mark in marks)


def _always(template: str) -> bool:
    return True


_TOOLS: tuple[tuple[str, Knows, str], ...] = (
    ("gpt_oss", _always, "openai"),
    ("deepseek_v32", _always, "deepseek_v32"),
    ("deepseek_v3", _has("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    ("deepseek_v3", _has("<｜tool▁calls▁begin｜>"), "deepseek_v31"),
    ("glm4", _has("<arg_key>"), "glm45"),
    ("llama4", _has("<|python_start|>"), "llama4_pythonic"),
    ("llama", _has('"parameters"', "<|eom_id|>"), "llama3_json"),
    ("mistral", _has("[TOOL_CALLS]"), "mistral"),
    ("minimax_m2", _always, "minimax_m2"),
    ("seed_oss", _always, "seed_oss"),
    ("hunyuan", _has("<tool_calls>"), "hunyuan_a13b"),
    ("ernie4_5", _always, "ernie45"),
    ("gemma4", _always, "gemma4"),
    ("olmo3", _has("<function_calls>"), "olmo3"),
    ("granite", _has("<|tool_call|>"), "granite"),
    ("lfm2", _always, "lfm2"),
    ("jamba", _has("<tool_calls>"), "jamba"),
    ("internlm2", _has("<|plugin|>"), "internlm"),
    ("", _has("<|tool_calls_section_begin|>"), "kimi_k2"),
    ("", _has("<tool_call>", "<function="), "qwen3_coder"),
    ("", _has("<tool_call>"), "hermes"),
)
_REASONING: tuple[tuple[str, Knows, str], ...] = (
    ("gpt_oss", _always, "openai_gptoss"),
    ("deepseek_v3", _has("thinking"), "deepseek_v3"),
    ("deepseek", _has("<think>"), "deepseek_r1"),
    ("glm4", _has("<think>"), "glm45"),
    ("qwen3", _has("</think>"), "qwen3"),
    ("minimax_m2", _always, "minimax_m2"),
    ("seed_oss", _always, "seed_oss"),
    ("hunyuan", _has("<think>"), "hunyuan_a13b"),
    ("ernie4_5", _has("<think>"), "ernie45"),
    ("gemma4", _always, "gemma4"),
    ("olmo3", _has("<think>"), "olmo3"),
    ("", _has("<|tool_calls_section_begin|>", "</think>"), "kimi_k2"),
    ("", _has("enable_thinking", "</think>"), "qwen3"),
    ("", _has("<think>"), "deepseek_r1"),
)


def tool_parser_of(named: str | None, model_type: str, template: str | None) -> str | None:
    """Return the parser of calls: as *named*, else as the family of *model_type* writes them; None if unknown."""
    return _chosen(named, _TOOLS, model_type, template)


def reasoning_parser_of(named: str | None, model_type: str, template: str | None) -> str | None:
    """Return the parser of reasoning: as *named*, else as the family of *model_type* marks it; None if it has none."""
    return _chosen(named, _REASONING, model_type, template)


def _chosen(
    named: str | None, table: tuple[tuple[str, Knows, str], ...], model_type: str, template: str | None
) -> str | None:
    if named is not None:
        return None if named == NONE else named
    found = (parser for family, knows, parser in table if model_type.startswith(family) and knows(template or ""))
    return next(found, None)
