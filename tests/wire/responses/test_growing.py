from __future__ import annotations

import pytest

from cortex.wire.responses.items import unseal
from wire.responses.dialogue import call, calls, chat, chunk, collected, ended, of, output, types


@pytest.mark.parametrize(
    ("arguments", "told_input"),
    [
        ('{"input":"*** Begin\\n"}', "*** Begin\n"),
        ("not JSON", "not JSON"),
        ('{"other":1}', '{"other":1}'),
        ("[]", "[]"),
    ],
)
def test_a_custom_tools_input_is_told_once_it_is_whole(arguments: str, told_input: str) -> None:
    pieces = [calls(call(0, "", "patch", "c")), *(calls(call(0, piece)) for piece in arguments)]

    found = collected(*pieces, ended("tool_calls"), tools=[{"type": "custom", "name": "patch"}])

    assert types(found)[2:-1] == [
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done")
    ]
    (item,) = output(found)
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", told_input)


def test_reasoning_is_a_summary_for_those_who_asked_for_one() -> None:
    found = collected(chunk(reasoning_content="hm"), chunk(content="x"), ended(), reasoning={"summary": "auto"})

    assert types(found)[2:8] == [
        *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
    ]
    assert output(found)[0]["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert "content" not in output(found)[0]


def test_log_probabilities_come_with_their_pieces_and_with_the_whole() -> None:
    entry = {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    piece = chunk(content="a", logprobs={"content": [entry]})

    found = collected(piece, chunk(content="b", logprobs={"content": None}), ended(), top_logprobs=1)

    deltas = [[each["token"] for each in event["logprobs"]] for event in of(found, "output_text.delta")]
    assert deltas == [["a"], []]
    top = {"token": "a", "logprob": -0.5, "bytes": []}
    assert output(found)[0]["content"][0]["logprobs"] == [{**top, "top_logprobs": [top]}]


@pytest.mark.parametrize("summary", ["auto", None])
def test_reasoning_is_sealed_for_those_who_will_send_it_back(summary: str | None) -> None:
    fields = {"reasoning": {"summary": summary}, "include": ["reasoning.encrypted_content"]}

    sealed, _ = output(collected(chunk(reasoning_content="hm"), chunk(content="x"), ended(), **fields))
    plain, _ = output(collected(chunk(reasoning_content="hm"), chunk(content="x"), ended()))

    assert unseal(sealed["encrypted_content"]) == "hm"
    assert "encrypted_content" not in plain
    assert chat({**sealed, "summary": [], "content": None})[0]["reasoning_content"] == "hm"
