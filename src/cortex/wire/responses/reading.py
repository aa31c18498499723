"""A value inside a body, read with its place in every complaint."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from cortex.core.errors import BadRequest
from cortex.wire import json

T = TypeVar("T")


def decode_at(raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], at: str) -> T:
    """Return *raw* as what *decoder* reads. Raises BadRequest that names the field from the body's top, under *at*."""
    try:
        return json.decode(bytes(raw), decoder)
    except BadRequest as error:
        what = error.message if error.param is None else error.message.removeprefix(f"{error.param}: ")
        where = at if error.param is None else f"{at}.{error.param}"
        raise BadRequest(f"{where}: {what}", param=where, code=error.code) from None
