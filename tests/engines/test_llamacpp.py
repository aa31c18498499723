"""What the binding calls back with, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

from cortex.engines.llamacpp import LlamaCpp
from cortex.engines.llamacpp_reading import Tally
from cortex.wire.engine_api import Chunk


def chunk_at(created: int, text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return json.dumps({"choices": [delta], "created": created, "id": "c"}, separators=(",", ":")).encode()


def test_every_chunk_of_a_stream_was_created_when_its_first_one_was() -> None:
    """The binding stamps each with the second it was made in; an answer may take many."""
    engine, tally = LlamaCpp(), Tally(1)
    read: list[dict[str, Any]] = []
    for at, text in [(100, "a"), (100, "b"), (101, 'said "created":101 and "created":100'), (102, "d")]:
        events = engine._read(chunk_at(at, text), "r", tally, None)
        read += [json.loads(event.data) for event in events if isinstance(event, Chunk)]

    assert [chunk["created"] for chunk in read] == [100] * 4
    assert read[2]["choices"][0]["delta"]["content"] == 'said "created":101 and "created":100'
