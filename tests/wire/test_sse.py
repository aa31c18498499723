from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import UpstreamFailed
from cortex.wire import sse
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.sse import (
    KEEP_ALIVE,
    EventRelay,
    Trailer,
    comment,
    data_event,
    decode_trailer,
    encode_trailer,
    trailer_event,
)

TRAILER = Trailer(Usage(3, 5, 1), Timings(0.5, 1.5, 20.25, 1), "stop")
TAIL = trailer_event(TRAILER)
DONE = b"data: [DONE]\n\n"
HELLO = data_event(b'{"choices":[{"delta":{"content":"Hello"}}]}')
UTF8 = data_event('{"content":"日本 ✓ é 😀"}'.encode())
# A text that says what a trailer says, as JSON carries it: its line feeds are escaped, so no line starts with it.
LOOKALIKE = data_event(json.dumps({"content": "\n: cortex {}\n\n: cortex "}).encode())
RAW_LOOKALIKE = data_event(b'{"content":": cortex {\\"usage\\":1}"}')
NAMED = b'event: error\ndata: {"error":{}}\n\n'
SHOUT = comment("loading 50%")

# name: (what the client gets, what the node sends after it)
STREAMS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "only a trailer": (b"", TAIL),
    "one event": (HELLO, TAIL),
    "cut short": (HELLO + HELLO, b""),
    "a whole answer": (HELLO + HELLO + DONE, TAIL),
    "multi-byte text": (UTF8 + UTF8 + DONE, TAIL),
    "text like a trailer": (LOOKALIKE + RAW_LOOKALIKE + DONE, TAIL),
    "text like a trailer, cut short": (RAW_LOOKALIKE + LOOKALIKE, b""),
    "keep-alives first": (KEEP_ALIVE + KEEP_ALIVE + SHOUT + HELLO + DONE, TAIL),
    "keep-alives only": (KEEP_ALIVE + SHOUT, b""),
    "keep-alives and a trailer": (KEEP_ALIVE, TAIL),
    "an event with a name": (HELLO + NAMED, TAIL),
    "several data lines": (b"data: a\ndata: b\n\n" + DONE, TAIL),
    "an empty event": (b"data: a\n\n\n\n" + DONE, TAIL),
}
ALL_STREAMS = pytest.mark.parametrize(("kept", "tail"), STREAMS.values(), ids=STREAMS)


def relay(stream: bytes, borders: list[int]) -> tuple[EventRelay, list[bytes]]:
    """Feed *stream* in pieces that end at *borders*; return the relay and what it gave for each."""
    subject = EventRelay()
    return subject, [subject.feed(stream[a:b]) for a, b in pairwise([0, *borders, len(stream)])]


def check(kept: bytes, tail: bytes, borders: list[int]) -> None:
    subject, pieces = relay(kept + tail, borders)

    assert b"".join(pieces) == kept
    assert subject.trailer == (TRAILER if tail else None)
    assert subject.saw_data == (b"data:" in kept)
    assert all(not piece or piece.endswith(b"\n\n") or piece == b"\n" for piece in pieces)


@ALL_STREAMS
def test_a_stream_in_one_piece_loses_only_its_trailer(kept: bytes, tail: bytes) -> None:
    check(kept, tail, [])


@ALL_STREAMS
def test_no_border_between_two_pieces_matters(kept: bytes, tail: bytes) -> None:
    for border in range(1, len(kept + tail)):
        check(kept, tail, [border])


@ALL_STREAMS
def test_a_stream_may_come_byte_by_byte(kept: bytes, tail: bytes) -> None:
    check(kept, tail, list(range(1, len(kept + tail))))


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(STREAMS)))
def test_a_stream_may_come_in_any_pieces(data: st.DataObject, name: str) -> None:
    kept, tail = STREAMS[name]
    borders = data.draw(st.lists(st.integers(0, len(kept + tail)), max_size=8).map(sorted))

    check(kept, tail, borders)


@settings(deadline=None)
@given(st.lists(st.sampled_from([HELLO, UTF8, LOOKALIKE, KEEP_ALIVE, SHOUT, NAMED, DONE]), max_size=6), st.data())
def test_any_stream_of_whole_events_comes_out_as_it_went_in(events: list[bytes], data: st.DataObject) -> None:
    kept = b"".join(events)
    borders = data.draw(st.lists(st.integers(0, len(kept + TAIL)), max_size=8).map(sorted))

    check(kept, TAIL, borders)


@pytest.mark.parametrize("size", range(1, len(HELLO)))
def test_an_event_that_never_ends_is_never_sent(size: int) -> None:
    subject = EventRelay()

    assert subject.feed(HELLO + HELLO[:size]) == HELLO
    assert subject.feed(b"") == b""


@pytest.mark.parametrize("border", [0, 3, len(HELLO), len(HELLO + DONE) - 1])
def test_success_is_not_told_before_the_trailer_proves_it(border: int) -> None:
    subject, whole = EventRelay(), HELLO + DONE

    assert subject.feed(whole[:border]) + subject.feed(whole[border:]) == HELLO
    assert subject.trailer is None
    assert subject.feed(TAIL) == DONE
    assert subject.trailer == TRAILER


def test_data_counts_as_seen_only_once_its_event_went_out() -> None:
    subject = EventRelay()

    seen = [subject.saw_data for piece in (KEEP_ALIVE, HELLO[:-1], HELLO[-1:]) if subject.feed(piece) is not None]

    assert seen == [False, False, True]


def test_a_trailer_that_cannot_be_read_is_kept_back_and_counts_as_none() -> None:
    subject = EventRelay()

    assert subject.feed(HELLO + b": cortex {nonsense\n\n") == HELLO
    assert subject.trailer is None


def test_an_event_without_end_breaks_the_connection_and_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_HELD_BYTES", 1000)
    subject = EventRelay()
    subject.feed(b"data: " + b"x" * 990)

    with pytest.raises(UpstreamFailed):
        subject.feed(b"x" * 10)


@pytest.mark.parametrize("text", ["loading 5%", "two\nlines", "a\r\n\r\ndata: forged", "日本"])
def test_a_comment_is_one_line_whatever_it_says(text: str) -> None:
    said = comment(text)

    assert said.startswith(b": ")
    assert said.endswith(b"\n\n")
    assert b"\n" not in said[:-2]
    assert b"\r" not in said


@pytest.mark.parametrize(
    "trailer", [TRAILER, Trailer(Usage(), Timings()), Trailer(Usage(1, 2), Timings(), "tool_calls")], ids=str
)
def test_a_trailer_reads_back_from_a_header_and_from_a_stream(trailer: Trailer) -> None:
    subject = EventRelay()
    subject.feed(trailer_event(trailer))

    assert subject.trailer == decode_trailer(encode_trailer(trailer)) == trailer


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"{}", b"[]", b'{"usage":5}', b"\xff", b'{"usage":{},"timings":{},"x":' + b"[" * 100_000]
)
def test_what_is_no_trailer_is_none(raw: bytes) -> None:
    assert decode_trailer(raw) is None
