from __future__ import annotations

import msgspec
import pytest

from cortex.wire.responses.stored import StoredResponse, decode_stored, encode_stored
from wire.responses.dialogue import raw

STORED = StoredResponse(
    id="resp_1",
    created_at=5,
    model="m",
    input=tuple(raw({"role": "user", "content": "é"})),
    output=tuple(raw({"type": "message", "id": "msg_1_0"})),
    response=raw({"id": "resp_1", "status": "completed"})[0],
)


def test_what_was_stored_is_read_back_byte_for_byte() -> None:
    assert decode_stored(encode_stored(STORED)) == STORED


def test_the_conversation_is_the_input_and_then_the_output() -> None:
    assert STORED.items == (*STORED.input, *STORED.output)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"id": 3}'])
def test_what_is_not_a_stored_response_is_not_read(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_stored(data)
