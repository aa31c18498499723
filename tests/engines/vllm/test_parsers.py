"""Which parser reads what a model writes, by its family and its template."""

from __future__ import annotations

import pytest

from cortex.engines.vllm.parsers import reasoning_parser_of, tool_parser_of

HERMES = "{{ tools }} <tool_call>{...}</tool_call>"
THINKING = "{% if enable_thinking %}<think></think>{% endif %}"


@pytest.mark.parametrize(
    ("family", "template", "parser"),
    [
        ("qwen2", HERMES, "hermes"),
        ("qwen3", HERMES, "hermes"),
        ("qwen3_moe", "<tool_call><function=x>", "qwen3_coder"),
        ("gpt_oss", None, "openai"),
        ("llama", '"parameters" <|eom_id|>', "llama3_json"),
        ("llama", HERMES, "hermes"),
        ("glm4_moe", "<tool_call><arg_key>", "glm45"),
        ("mistral3", "[TOOL_CALLS]", "mistral"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜>```json", "deepseek_v3"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜>", "deepseek_v31"),
        ("deepseek_v3", "<|tool_calls_section_begin|>", "kimi_k2"),
        ("llama", "{{ messages }}", None),
        ("llama", None, None),
    ],
)
def test_calls_are_read_as_the_family_writes_them(family: str, template: str | None, parser: str | None) -> None:
    assert tool_parser_of(None, family, template) == parser


@pytest.mark.parametrize(
    ("family", "template", "parser"),
    [
        ("qwen3", THINKING, "qwen3"),
        ("qwen3", "plain", None),
        ("gpt_oss", None, "openai_gptoss"),
        ("deepseek_v3", "thinking <think>", "deepseek_v3"),
        ("deepseek_v3", "<think>", "deepseek_r1"),
        ("qwen2", "{% generation %}<think>\n", "deepseek_r1"),
        ("llama", THINKING, "qwen3"),
        ("llama", "plain", None),
    ],
)
def test_reasoning_is_read_as_the_family_marks_it(family: str, template: str | None, parser: str | None) -> None:
    assert reasoning_parser_of(None, family, template) == parser


def test_what_is_named_is_taken_and_none_switches_off() -> None:
    assert tool_parser_of("xlam", "qwen3", HERMES) == "xlam"
    assert tool_parser_of("none", "qwen3", HERMES) is None
    assert reasoning_parser_of("step3", "qwen3", THINKING) == "step3"
    assert reasoning_parser_of("none", "qwen3", THINKING) is None
