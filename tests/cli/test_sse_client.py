"""The reader returns the same events wherever the bytes are cut and however lines end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.cli.sse_client import Comment, Data, SseReader

STREAM = (
    b"\xef\xbb\xbf: loading m on n: download 40%, 3s\n\n"
    b'data: {"content":"gr\xc3\xbc\xc3\x9fe"}\n\n'
    b": keep-alive\r\n\r\n"
    b"event: x\rid: 1\rdata:one\rdata: two\r\r"
    b"data\r\n\r\n"
    b"data: [DONE]\n\n"
    b"data: never ended\n"
)
EVENTS = [
    Comment("loading m on n: download 40%, 3s"),
    Data('{"content":"grüße"}'),
    Comment("keep-alive"),
    Data("one\ntwo"),
    Data(""),
    Data("[DONE]"),
]


def read(*pieces: bytes) -> list[Data | Comment]:
    reader = SseReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def test_reads_events_and_comments_and_leaves_an_unfinished_event_out() -> None:
    assert read(STREAM) == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_cut_anywhere_changes_nothing(cut: int) -> None:
    assert read(STREAM[:cut], b"", STREAM[cut:]) == EVENTS


def test_byte_by_byte_changes_nothing() -> None:
    assert read(*(bytes([byte]) for byte in STREAM)) == EVENTS


LINES = st.lists(st.sampled_from([b"data: a", b"data:", b"data: b: c", b": note", b"id: 7", b""]), max_size=12)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(lines=LINES, data=st.data())
def test_every_mixture_of_line_ends_and_cuts_reads_as_plain_lines_in_one_piece(
    lines: list[bytes], data: st.DataObject
) -> None:
    mixed = b""
    for line in lines:
        end = data.draw(ENDS)
        # An empty line that ends in LF after a CR would be read as the rest of a CRLF, and rightly so.
        mixed += line + (b"\r" if not line and mixed.endswith(b"\r") and end == b"\n" else end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(mixed)), max_size=6)))
    bounds = [0, *cuts, len(mixed)]

    pieces = [mixed[start:stop] for start, stop in itertools.pairwise(bounds)]

    assert read(*pieces) == read(b"".join(line + b"\n" for line in lines))


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(noise: bytes) -> None:
    read(noise)
