"""The older shape of log probabilities."""

from __future__ import annotations

from typing import Any

from cortex.engines.legacy_logprobs import LegacyLogprobs


def chunk(index: int, *tokens: str) -> dict[str, Any]:
    content = [{"token": t, "logprob": -0.5, "top_logprobs": [{"token": t, "logprob": -0.5}]} for t in tokens]
    return {"choices": [{"index": index, "text": "".join(tokens), "logprobs": {"content": content}}]}


def test_tokens_become_parallel_lists_whose_offsets_run_on_in_each_choice() -> None:
    legacy = LegacyLogprobs()
    first = legacy.translate(chunk(0, " Paris", "."))[0]["choices"][0]["logprobs"]
    other = legacy.translate(chunk(1, " Rome"))[0]["choices"][0]["logprobs"]
    second = legacy.translate(chunk(0, " It"))[0]["choices"][0]["logprobs"]

    assert first == {
        "tokens": [" Paris", "."],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{" Paris": -0.5}, {".": -0.5}],
        "text_offset": [0, 6],
    }
    assert other["text_offset"] == [0]
    assert second["text_offset"] == [7]


def test_a_chunk_without_log_probabilities_passes() -> None:
    last = {"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]}
    assert LegacyLogprobs().translate(dict(last)) == [last]
