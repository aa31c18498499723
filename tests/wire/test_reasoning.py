from __future__ import annotations

from typing import Any

import pytest

from cortex.wire.reasoning import template_kwargs, unheeded

QWEN3, DEEPSEEK, GPT_OSS, PLAIN = ("enable_thinking",), ("thinking",), ("reasoning_effort", "model_identity"), ()


@pytest.mark.parametrize(
    ("variables", "effort", "told"),
    [
        (QWEN3, "none", {"enable_thinking": False}),
        (QWEN3, "minimal", {"enable_thinking": False}),
        (QWEN3, "low", {"enable_thinking": True}),
        (DEEPSEEK, "none", {"thinking": False}),
        (DEEPSEEK, "high", {"thinking": True}),
        (GPT_OSS, "minimal", {"reasoning_effort": "low"}),
        (GPT_OSS, "medium", {"reasoning_effort": "medium"}),
        (GPT_OSS, "xhigh", {"reasoning_effort": "high"}),
        (GPT_OSS, "none", {}),
        (PLAIN, "none", {}),
        (QWEN3, None, {}),
    ],
)
def test_an_effort_is_told_in_the_template_s_own_words(variables: Any, effort: str | None, told: Any) -> None:
    assert template_kwargs(effort, None, variables) == told
    assert unheeded(effort, None, variables) == (("reasoning_effort",) if effort and not told else ())


def test_what_the_client_sets_by_name_wins() -> None:
    assert template_kwargs("high", {"enable_thinking": False}, QWEN3) == {"enable_thinking": False}


def test_a_name_that_the_template_does_not_read_is_left_out_and_named() -> None:
    given = {"enable_thinking": False, "colour": "red"}

    assert template_kwargs(None, given, QWEN3) == {"enable_thinking": False}
    assert unheeded("low", given, PLAIN) == (
        "chat_template_kwargs.colour",
        "chat_template_kwargs.enable_thinking",
        "reasoning_effort",
    )
