"""What a client asks, in vLLM's words."""

from __future__ import annotations

from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.engines.vllm.request import chat, completion, limit_of

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def asked(variables: tuple[str, ...] = (), *, harmony: bool = False, **fields: Any) -> dict[str, Any]:
    return chat({"messages": MESSAGES, **fields}, "m", "r1", variables, harmony=harmony)


def test_a_chat_streams_under_its_id_and_counts() -> None:
    assert asked() == {
        "messages": MESSAGES,
        "model": "m",
        "request_id": "r1",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_sampling_goes_as_it_came_and_the_repeat_penalty_by_its_other_name() -> None:
    told = asked(temperature=0.5, top_k=7, seed=3, logprobs=True, top_logprobs=2, repeat_penalty=1.1, stop=["x"])

    assert (told["temperature"], told["top_k"], told["seed"], told["stop"]) == (0.5, 7, 3, ["x"])
    assert (told["logprobs"], told["top_logprobs"], told["repetition_penalty"]) == (True, 2, 1.1)


def test_several_greedy_choices_are_each_the_likeliest() -> None:
    told = asked(n=2, temperature=0)

    assert (told["n"], told["temperature"], told["top_k"]) == (2, 1.0, 1)
    assert asked(n=1, temperature=0)["temperature"] == 0


def test_limits_are_kept_apart_because_vllm_refuses_what_the_context_cuts() -> None:
    assert "max_tokens" not in asked(max_tokens=5)
    assert (limit_of({"max_tokens": 5}), limit_of({}), limit_of({"max_completion_tokens": 6})) == (5, None, 6)


@pytest.mark.parametrize(("name", "value"), [("typical_p", 0.5), ("repeat_penalty", 0.0)])
def test_what_vllm_does_not_have_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(BadRequest, match=name):
        asked(**{name: value})
    with pytest.raises(BadRequest, match=name):
        completion({"prompt": "a", name: value}, "m", "r1")


def test_a_typical_p_that_changes_nothing_is_no_reason_to_refuse() -> None:
    assert "typical_p" not in asked(typical_p=1.0)


def test_choosing_among_no_tools_is_not_said() -> None:
    assert asked(tools=[], tool_choice="auto", parallel_tool_calls=True) == asked()


def test_tools_that_may_not_be_called_are_in_the_prompt_only_where_it_is_that_of_a_draft() -> None:
    fields = {"messages": MESSAGES, "tools": [TOOL], "tool_choice": "none"}

    assert chat(fields, "m", "r1", ()) == asked()
    assert chat(fields, "m", "r1", (), shows_tools=True)["tools"] == [TOOL]


def test_tools_go_with_what_is_said_of_them() -> None:
    told = asked(tools=[TOOL], tool_choice="required", parallel_tool_calls=False)

    assert (told["tools"], told["tool_choice"], told["parallel_tool_calls"]) == ([TOOL], "required", False)


def test_a_schema_has_a_name_and_text_is_no_format() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}, "strict": True}}

    assert asked(response_format=wanted)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert asked(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    assert "response_format" not in asked(response_format={"type": "text"})


def test_a_schema_that_means_nothing_is_refused() -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "bogus"}}}

    with pytest.raises(BadRequest, match="bogus"):
        asked(response_format=wanted)


def test_reasoning_is_switched_as_the_template_has_it() -> None:
    assert asked(("enable_thinking",), reasoning_effort="none")["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in asked(reasoning_effort="none")
    assert asked(("reasoning_effort",), reasoning_effort="max")["chat_template_kwargs"] == {"reasoning_effort": "high"}


def test_harmony_has_its_effort_as_a_field() -> None:
    told = asked(("reasoning_effort",), harmony=True, reasoning_effort="low")

    assert told["reasoning_effort"] == "low"
    assert "chat_template_kwargs" not in told


def test_a_last_message_can_be_gone_on_with() -> None:
    told = asked(continue_final_message=True)

    assert (told["continue_final_message"], told["add_generation_prompt"]) == (True, False)


def test_a_completion_has_its_prompt_and_counts_of_log_probabilities() -> None:
    told = completion({"prompt": ["a", "b"], "logprobs": 2, "n": 2}, "m", "r1")

    assert (told["prompt"], told["logprobs"], told["n"], told["stream"]) == (["a", "b"], 2, 2, True)
