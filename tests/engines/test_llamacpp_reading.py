"""What llama.cpp's last chunks are turned into, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cortex.core.errors import BadRequest, ContextLengthExceeded
from cortex.engines.llamacpp_reading import EngineError, Fault, Tally, fault_of, first_line, peek
from cortex.wire.engine_api import Usage

TIMINGS = {"cache_n": 3, "prompt_n": 4, "prompt_ms": 1.0, "predicted_n": 5, "predicted_ms": 2.0}


def chunk(reason: str | None = None, stop: str | None = None, **more: Any) -> bytes:
    verbose = {} if stop is None else {"__verbose": {"stopping_word": stop, "prompt": "secret"}}
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    return json.dumps({"id": "c", "created": 1, "choices": [choice], **verbose, **more}).encode()


def cleaned(data: bytes, *stops: str) -> Any:
    return json.loads(Tally(1, stops).cleaned(data, peek(data)))


@pytest.mark.parametrize(("word", "told"), [("END", "END"), ("<|im_end|>", None), ("", None)])
def test_a_stop_string_is_told_if_it_is_the_clients(word: str, told: str | None) -> None:
    """A template has stops of its own, which are nobody's business."""
    whole = cleaned(chunk("stop", word, timings=TIMINGS, usage={"total_tokens": 1}), "END", "FIN")

    assert whole["choices"][0].get("stop_reason") == told
    assert whole.keys() == {"id", "created", "choices"}


def test_a_chunk_in_mid_answer_loses_what_is_not_the_clients() -> None:
    assert cleaned(chunk(stop="", timings=TIMINGS)).keys() == {"id", "created", "choices"}


def test_a_chunk_with_nothing_to_take_out_is_not_touched() -> None:
    data = chunk()

    assert Tally(1).cleaned(data, peek(data)) is data


def test_choices_add_up_and_their_prompt_counts_once() -> None:
    tally = Tally(2)
    for reason in ("stop", "length"):
        tally.end(peek(chunk(reason, timings=TIMINGS)), reason)

    finished = tally.finished("r")
    assert (finished.reason, finished.usage) == ("stop", Usage(7, 10, 3))


def test_an_answer_without_an_end_is_the_engines_fault() -> None:
    with pytest.raises(EngineError, match="without a finish reason"):
        Tally(1).finished("r")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("x", 400, "exceed_context_size_error", 9, 8), ContextLengthExceeded),
        (Fault("input (163 tokens) is too large to process. (current batch size: 64)"), ContextLengthExceeded),
        (Fault("wrong", 400), BadRequest),
        (Fault("broken", 500), EngineError),
    ],
)
def test_a_fault_blames_the_request_only_where_llama_cpp_does(fault: Fault, error: type[Exception]) -> None:
    assert type(fault_of(fault)) is error


def test_of_an_error_the_first_line_is_told() -> None:
    assert first_line(ValueError("bad grammar\nat line 1")) == "bad grammar"
    assert first_line(ValueError("")) == "the request was refused by llama.cpp"
