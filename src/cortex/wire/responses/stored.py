"""A response as it is kept: what `GET /v1/responses/{id}` answers, and what a later request goes on from."""

from __future__ import annotations

import msgspec

_encoder = msgspec.json.Encoder()


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One finished response.

    *input* holds the items of the whole conversation up to this answer, earlier responses included, so that a later
    request needs no other one. *response* is the object as the client got it.
    """

    id: str
    created_at: int
    model: str
    input: tuple[msgspec.Raw, ...]
    output: tuple[msgspec.Raw, ...]
    response: msgspec.Raw

    @property
    def items(self) -> tuple[msgspec.Raw, ...]:
        """The conversation with this answer: the `previous` of a request that goes on from here."""
        return (*self.input, *self.output)


_decoder = msgspec.json.Decoder(StoredResponse)


def encode_stored(stored: StoredResponse) -> bytes:
    """Return *stored* as JSON."""
    return _encoder.encode(stored)


def decode_stored(data: bytes) -> StoredResponse:
    """Return the response in *data*. Raises msgspec.MsgspecError."""
    return _decoder.decode(data)
