from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.engine_api import Timings
from cortex.wire.hub_stream import HubUsage
from cortex.wire.ollama.lines import Lines, Said, counts_of, unbroken
from wire.ollama.client import CREATED, NOW, lines_of

HEAD = {"model": "m", "created_at": CREATED}
CHAT, TEXT = Lines("m", NOW, chat=True), Lines("m", NOW, chat=False)
CALLS: list[dict[str, Any]] = [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {}}}]


def message(content: str = "", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (CHAT.text('a"\n'), {**HEAD, **message('a"\n'), "done": False}),
        (TEXT.text('a"\n'), {**HEAD, "response": 'a"\n', "done": False}),
        (CHAT.thinking("t"), {**HEAD, **message(thinking="t"), "done": False}),
        (TEXT.thinking("t"), {**HEAD, "response": "", "thinking": "t", "done": False}),
        (CHAT.told(Said(calls=CALLS)), {**HEAD, **message(tool_calls=CALLS), "done": False}),
        (
            CHAT.last(Said("a", "t", CALLS), "tool_calls", {"eval_count": 3}),
            {
                **HEAD,
                **message("a", thinking="t", tool_calls=CALLS),
                "done": True,
                "done_reason": "stop",
                "eval_count": 3,
            },
        ),
        (TEXT.last(Said(), "length", {}), {**HEAD, "response": "", "done": True, "done_reason": "length"}),
        (TEXT.last(Said(), "load", {}), {**HEAD, "response": "", "done": True, "done_reason": "load"}),
    ],
)
def test_a_line_is_the_endpoints(raw: bytes, expected: dict[str, Any]) -> None:
    assert lines_of(raw) == [expected]
    assert list(lines_of(raw)[0]) == list(expected)


@given(model=st.text(), text=st.text(), chat=st.booleans())
def test_a_line_is_one_wherever_a_client_cuts(model: str, text: str, chat: bool) -> None:
    lines = Lines(model, NOW, chat=chat)
    for raw in (lines.text(text), lines.thinking(text), lines.last(Said(text), text, {})):
        (value,) = lines_of(raw)
        assert value["model"] == model
        assert text in json.dumps(value, ensure_ascii=False) or json.dumps(text)[1:-1] in json.dumps(value)


@given(st.text(alphabet=st.sampled_from('a\\"\x85\u2028\u2029\x0b\u0085é日')))
def test_line_breaks_of_unicode_go_out_escaped(text: str) -> None:
    raw = unbroken(json.dumps(text, ensure_ascii=False).encode())

    assert len(raw.decode().splitlines()) == 1
    assert json.loads(raw) == text


def test_counts_are_in_tokens_and_nanoseconds() -> None:
    timings = Timings(queue_ms=1.0, prefill_ms=2.0, decode_ms=4.5)

    assert counts_of(HubUsage(12, 5), timings, load_ms=8.0) == {
        "total_duration": 15_500_000,
        "load_duration": 8_000_000,
        "prompt_eval_count": 12,
        "prompt_eval_duration": 2_000_000,
        "eval_count": 5,
        "eval_duration": 4_500_000,
    }


def test_what_is_not_known_is_zero() -> None:
    assert set(counts_of(None, None, 0.0).values()) == {0}
