from __future__ import annotations

import msgspec
import pytest

from cortex.core.errors import BadRequest
from cortex.wire.responses.items import FunctionCallItem
from cortex.wire.responses.reading import decode_at

DECODER = msgspec.json.Decoder(FunctionCallItem)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"call_id":3}', "input[2].call_id: Expected `str`, got `int`"),
        (b"{}", "input[2]: Object missing required field `call_id`"),
        (b"3", "input[2]: Expected `object`, got `int`"),
    ],
)
def test_a_complaint_names_the_place_in_the_body(raw: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_at(msgspec.Raw(raw), DECODER, "input[2]")

    assert caught.value.message == message
    assert message.startswith(f"{caught.value.param}: ")
