from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.errors import UpstreamFailed
from cortex.wire import hub_stream
from cortex.wire.hub_stream import Choice, Chunk, Delta, HubStream, HubUsage, decode_chunk
from cortex.wire.sse import KEEP_ALIVE, data_event
from cortex.wire.translation import Opening, opening_comment

DONE = b"data: [DONE]\n\n"


def say(text: str, index: int = 0) -> bytes:
    return data_event(json.dumps({"choices": [{"index": index, "delta": {"content": text}}]}).encode())


def texts(chunks: list[Chunk]) -> list[Any]:
    return [choice.delta.content for chunk in chunks if (choice := chunk.choice()) is not None and choice.delta]


RAW = opening_comment(Opening(7, 2)) + KEEP_ALIVE + say("é\n\ndata: x") + b"\n" + say("b") + DONE


@given(borders=st.lists(st.integers(0, len(RAW)), max_size=8))
def test_chunks_come_out_whole_and_in_order_however_the_stream_is_cut(borders: list[int]) -> None:
    subject = HubStream()
    pieces = [RAW[a:b] for a, b in pairwise([0, *sorted(borders), len(RAW)])]

    assert texts([chunk for piece in pieces for chunk in subject.feed(piece)]) == ["é\n\ndata: x", "b"]
    assert (subject.opening, subject.done) == (Opening(7, 2), True)


def test_a_stream_may_come_byte_by_byte() -> None:
    subject = HubStream()

    assert texts([chunk for byte in RAW for chunk in subject.feed(bytes([byte]))]) == ["é\n\ndata: x", "b"]


@pytest.mark.parametrize("raw", [KEEP_ALIVE, b"\n", b"event: x\n", say("a")])
def test_only_the_node_says_that_it_has_begun(raw: bytes) -> None:
    subject = HubStream()
    list(subject.feed(raw))

    assert (subject.opening, subject.done) == (None, False)


def test_nothing_is_read_after_the_end() -> None:
    subject = HubStream()

    assert list(subject.feed(DONE + say("a") + b"data: {\n\n")) == []
    assert list(subject.feed(say("a"))) == []


@pytest.mark.parametrize("junk", [b"data: {\n", b"data: 3\n", b"data:\n", b"data: \xff\n", b": cortex-start {\n"])
def test_what_stands_before_an_unreadable_piece_is_told_first(junk: bytes) -> None:
    chunks = HubStream().feed(say("a") + junk + say("b"))

    assert texts([next(chunks)]) == ["a"]
    with pytest.raises(UpstreamFailed):
        next(chunks)


@pytest.mark.parametrize("pieces", [[b"data: " + b"x" * 100], [b"\n" + b"x" * 60, b"x" * 60]])
def test_an_event_without_end_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    monkeypatch.setattr(hub_stream, "MAX_HELD_BYTES", 100)
    subject = HubStream()

    with pytest.raises(UpstreamFailed):
        [list(subject.feed(piece)) for piece in pieces]


def test_a_chunk_has_only_what_is_read() -> None:
    read = decode_chunk(b'{"id":"x","timings":{},"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}')

    assert read == Chunk(id="x", choices=[Choice(delta=Delta())])


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"choices":[{"delta":{"content":3}}]}', b'"\xff"', b'{"choices":' + b"[" * 5000]
)
def test_what_is_no_chunk_is_the_nodes_fault(data: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        decode_chunk(data)


def test_other_choices_are_not_looked_at() -> None:
    assert texts(list(HubStream().feed(say("a", index=1) + say("b")))) == ["b"]


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b'{"prompt_tokens_details":null,"completion_tokens_details":null}',
        b'{"prompt_tokens_details":{"cached_tokens":null},"completion_tokens_details":{}}',
    ],
)
def test_counts_that_the_hub_leaves_out_are_zero(raw: bytes) -> None:
    usage = decode_chunk(b'{"usage":%b}' % raw).usage

    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.reasoning_tokens) == (0, 0, 0)


def test_counts_are_the_hubs() -> None:
    details = b'"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}'
    usage = decode_chunk(b'{"usage":{"prompt_tokens":5,"completion_tokens":4,%b}}' % details).usage

    assert isinstance(usage, HubUsage)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens) == (5, 4, 3, 2)
