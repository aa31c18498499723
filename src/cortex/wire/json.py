"""JSON at the border: strict, bounded, and every failure a BadRequest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from cortex.core.errors import BadRequest

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

_fields = msgspec.json.Decoder(Fields)
_anything = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_REASON = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<at>[^`]*)`)?$", re.DOTALL)


def encode(value: Any) -> bytes:
    """Return *value* as JSON; a `msgspec.Raw` inside goes out byte for byte."""
    return _encoder.encode(value)


def fields_of(body: bytes) -> Fields:
    """Return the top-level fields of the JSON object *body*, each as its raw bytes. Raises BadRequest."""
    return _guard(_read_fields, body)


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return *body* as what *decoder* reads. Raises BadRequest naming the field that is wrong."""
    return _guard(decoder.decode, body)


def decode_any(body: bytes) -> Any:
    """Return *body* as plain Python values. Raises BadRequest."""
    return _guard(_anything.decode, body)


def pick(fields: Mapping[str, msgspec.Raw], names: frozenset[str]) -> dict[str, msgspec.Raw]:
    """Return those of *fields* that *names* allows, as sent."""
    return {name: raw for name, raw in fields.items() if name in names}


def printable(name: str) -> str:
    """Return the start of *name*, which a client made up, as a header may have it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "?" for c in name[:60])


def _read_fields(body: bytes) -> Fields:
    str(body, "utf-8")  # a Raw value is skipped unread, and goes out as it came
    return _fields.decode(body)


def _guard(read: Callable[[bytes], T], body: bytes) -> T:
    if not body:
        raise BadRequest("the request has no body; expected a JSON object", code="malformed_json")
    try:
        return read(body)
    except msgspec.ValidationError as error:
        match = _REASON.match(str(error))
        at = (match["at"] if match else None) or None
        what = match["what"] if match else str(error)
        raise BadRequest(f"{at}: {what}" if at else what, param=at, code="invalid_type") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="malformed_json") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not valid UTF-8", code="malformed_json") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply", code="malformed_json") from None
