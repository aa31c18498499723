from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import EngineFailed
from cortex.wire import engine_api as api
from cortex.wire.engine_api import Framer, decode_from_engine, decode_to_engine, encode_message

COUNTS = st.integers(0, 2**40)
NAMES = st.text(max_size=12)
MILLISECONDS = st.floats(0, 1e9)
OPTIONS = st.dictionaries(
    NAMES, st.none() | st.booleans() | st.integers(-9, 9) | NAMES | st.lists(NAMES, max_size=2), max_size=3
)
DEVICES = st.builds(api.Device, index=COUNTS, kind=NAMES, name=NAMES, memory_free_bytes=COUNTS, ordinal=COUNTS)
SPECS = st.builds(
    api.EngineSpec,
    model=NAMES,
    engine=NAMES,
    path=NAMES,
    devices=st.lists(DEVICES, max_size=2).map(tuple),
    context=st.none() | COUNTS,
    options=OPTIONS,
)
INFOS = st.builds(
    api.ReplicaInfo,
    engine=NAMES,
    engine_version=NAMES,
    context_tokens=COUNTS,
    slots=COUNTS,
    capabilities=st.lists(NAMES, max_size=2).map(tuple),
    simulated=st.booleans(),
    memory_bytes=st.none() | COUNTS,
    notes=st.lists(NAMES, max_size=2).map(tuple),
)
USAGES = st.builds(api.Usage, COUNTS, COUNTS, COUNTS)
TIMINGS = st.builds(api.Timings, MILLISECONDS, MILLISECONDS, MILLISECONDS, COUNTS)
KINDS = st.sampled_from(["chat", "completion", "embedding"])
ESTIMATES = st.builds(api.Estimate, st.dictionaries(COUNTS, COUNTS, max_size=3))
BODIES = st.binary(max_size=40)

TO_ENGINE: st.SearchStrategy[api.ToEngine] = st.one_of(
    st.builds(api.Load, NAMES, SPECS),
    st.builds(api.Measure, NAMES, SPECS),
    st.builds(api.Generate, NAMES, KINDS, BODIES, COUNTS),
    st.builds(api.Tokenize, NAMES, BODIES),
    st.builds(api.Abort, NAMES),
    st.builds(api.Ping, NAMES),
    st.builds(api.Shutdown, NAMES),
)
FROM_ENGINE: st.SearchStrategy[api.FromEngine] = st.one_of(
    st.builds(api.Ready, NAMES, NAMES, NAMES),
    st.builds(api.Loaded, NAMES, INFOS),
    st.builds(api.Estimated, NAMES, ESTIMATES),
    st.builds(api.Progress, NAMES, NAMES, COUNTS, COUNTS, COUNTS),
    st.builds(api.Chunk, NAMES, BODIES),
    st.builds(api.Finished, NAMES, NAMES, USAGES, TIMINGS),
    st.builds(api.Failed, NAMES, st.integers(400, 599), NAMES, st.none() | NAMES, st.none() | NAMES),
    st.builds(api.Pong, NAMES),
)
CHATTER = [encode_message(m) for m in (api.Ping("a"), api.Chunk("b", b"x" * 300), api.Pong(""), api.Abort("日本"))]
PAYLOADS = [message[4:] for message in CHATTER]
STREAM = b"".join(CHATTER)


def feed(stream: bytes, borders: list[int]) -> list[bytes]:
    framer = Framer()
    return [payload for a, b in pairwise([0, *borders, len(stream)]) for payload in framer.feed(stream[a:b])]


def test_messages_are_split_wherever_the_pieces_end() -> None:
    for border in range(len(STREAM) + 1):
        assert feed(STREAM, [border]) == PAYLOADS


def test_messages_may_come_byte_by_byte() -> None:
    assert feed(STREAM, list(range(len(STREAM)))) == PAYLOADS


@settings(deadline=None)
@given(st.lists(BODIES, max_size=5), st.data())
def test_any_payloads_come_out_as_they_went_in(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(p).to_bytes(4, "big") + p for p in payloads)
    borders = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))

    assert feed(stream, borders) == payloads


@pytest.mark.parametrize(
    "stream", [b"\xff\xff\xff\xff", b"HTTP/1.1 200 OK", (api.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")]
)
def test_a_length_that_cannot_be_right_is_a_failure_before_anything_is_held(stream: bytes) -> None:
    with pytest.raises(EngineFailed, match="not our protocol"):
        Framer().feed(stream)


def test_a_message_of_the_greatest_length_is_waited_for() -> None:
    assert Framer().feed(api.MAX_MESSAGE_BYTES.to_bytes(4, "big") + b"x") == []


@settings(deadline=None)
@given(TO_ENGINE)
def test_what_a_neuron_says_reads_back(message: api.ToEngine) -> None:
    (payload,) = Framer().feed(encode_message(message))

    assert decode_to_engine(payload) == message


@settings(deadline=None)
@given(FROM_ENGINE)
def test_what_an_engine_process_says_reads_back(message: api.FromEngine) -> None:
    (payload,) = Framer().feed(encode_message(message))

    assert decode_from_engine(payload) == message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"nonsense",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({"type": "Unheard", "id": "a"}),
        msgspec.msgpack.encode({"type": "Ping"}),
        msgspec.msgpack.encode({"type": "Pong", "id": 5}),
        b"\x82\xa4type\xa4Ping\xa2id\xa2\xff\xff",
        b"\x82\xa4type\xa4Pong\xa2id\xa2\xff\xff",
        b"\x91" * 100_000,
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_what_is_no_message_is_a_failure_of_the_engine(payload: bytes) -> None:
    for decode in (decode_to_engine, decode_from_engine):
        with pytest.raises(EngineFailed, match="unreadable"):
            decode(payload)


def test_neither_side_takes_its_own_words_for_the_other_s() -> None:
    with pytest.raises(EngineFailed):
        decode_to_engine(PAYLOADS[2])
    with pytest.raises(EngineFailed):
        decode_from_engine(PAYLOADS[0])
