"""What a node says at the start of a translated stream."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.sse import KEEP_ALIVE, EventRelay
from cortex.wire.translation import Opening, decode_opening, opening_comment

COUNTS = st.integers(min_value=0, max_value=1 << 53)


@given(COUNTS, COUNTS)
def test_an_opening_is_a_comment_that_reads_back(prompt_tokens: int, cached_tokens: int) -> None:
    opening = Opening(prompt_tokens, cached_tokens)
    line = opening_comment(opening)

    assert line.startswith(b":")
    assert line.endswith(b"\n\n")
    assert b"\n" not in line[:-2]
    assert decode_opening(line.strip()) == opening


@pytest.mark.parametrize("line", [KEEP_ALIVE.strip(), b": loading m on a, 40%", b": cortex-starting", b"data: {}", b""])
def test_another_line_is_no_opening(line: bytes) -> None:
    assert decode_opening(line) is None


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"prompt_tokens":"7"}', b'{"prompt_tokens":null}'])
def test_an_opening_that_cannot_be_read_is_an_error(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_opening(b": cortex-start " + payload)


@pytest.mark.parametrize("size", range(1, 40))
def test_the_relay_passes_an_opening_on_whole_and_takes_it_for_no_answer(size: int) -> None:
    relay, sent = EventRelay(), opening_comment(Opening(7, 3))

    passed = [relay.feed(sent[at : at + size]) for at in range(0, len(sent), size)]

    assert [piece for piece in passed if piece] == [sent]
    assert not relay.saw_data
    assert relay.trailer is None
