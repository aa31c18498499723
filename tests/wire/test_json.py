from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from cortex.core.errors import BadRequest
from cortex.wire import json


class Inner(msgspec.Struct):
    role: Literal["a", "b"]


class Shape(msgspec.Struct):
    number: float | None = None
    text: str | None = None
    items: list[Inner] = []
    table: dict[Annotated[str, Meta(pattern="^[0-9]+$")], float] = {}


SHAPE = msgspec.json.Decoder(Shape)


def as_shape(body: bytes) -> Shape:
    return json.decode(body, SHAPE)


READERS = pytest.mark.parametrize("read", [json.fields_of, json.decode_any, as_shape])
DEPTH = 100_000


@READERS
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"text":"a"',
        b'{"text":',
        b'{"text":"a"} x',
        b"{'text':'a'}",
        b'{"number":NaN}',
        b'{"number":Infinity}',
        b'{"number":-Infinity}',
        b'{"number":01}',
        b'{"number":.5}',
        b'{"text":"\\ud800"}',
        b'{"text":"\\ud800x"}',
        b'{"text":"\\udc00"}',
        b'{"text":"\\q"}',
        b'{"text":"\x01"}',
        b'{"text":"\xff"}',
        b'{"text":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"text":"a"}',
        '{"text":"a"}'.encode("utf-16"),
        b'{"items":' + b"[" * DEPTH,
        b'{"unknown":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b'{"unknown":' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH + b"}",
        b"[" * DEPTH,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_whatever_is_no_json_is_a_bad_request(read: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)

    assert caught.value.status == 400
    assert caught.value.code in ("malformed_json", "invalid_type")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("read", [json.fields_of, as_shape])
@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"', b"true"])
def test_json_that_is_no_object_is_a_bad_request(read: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(BadRequest, match="Expected `object`"):
        read(body)


def test_a_field_that_is_passed_on_unread_must_be_utf8_too() -> None:
    with pytest.raises(BadRequest, match="UTF-8"):
        json.fields_of(b'{"a":1,"unread":{"b":"\xff"}}')


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"number":"1"}', "number"),
        (b'{"number":1e999}', "number"),
        (b'{"number":1' + b"0" * 5000 + b"}", "number"),
        (b'{"text":5}', "text"),
        (b'{"items":{}}', "items"),
        (b'{"items":[{"role":"a"},{"role":"c"}]}', "items[1].role"),
        (b'{"items":[{}]}', "items[0]"),
        (b'{"table":{"x":1}}', "table"),
        (b'{"table":{"1":"x"}}', "table[...]"),
    ],
)
def test_a_typed_error_names_the_parameter(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        as_shape(body)

    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert "$" not in caught.value.message.partition("matching")[0]


def test_fields_keep_the_bytes_they_came_in() -> None:
    fields = json.fields_of(b'{"a": 1.50, "b":{"x":[ 1 ]}, "c":"\\u00e9"}')

    assert {name: bytes(raw) for name, raw in fields.items()} == {"a": b"1.50", "b": b'{"x":[ 1 ]}', "c": b'"\\u00e9"'}
    assert json.encode(json.pick(fields, frozenset({"a", "c", "absent"}))) == b'{"a":1.50,"c":"\\u00e9"}'


def test_the_last_of_two_equal_names_counts_for_every_reader() -> None:
    body = b'{"text":"a","text":"b"}'

    assert as_shape(body).text == json.decode_any(body)["text"] == "b"
    assert bytes(json.fields_of(body)["text"]) == b'"b"'


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_bad_request(body: bytes) -> None:
    for read in (json.fields_of, json.decode_any, as_shape):
        with contextlib.suppress(BadRequest):
            read(body)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    assert json.decode_any(json.encode(value)) == value


@pytest.mark.parametrize(
    ("name", "shown"),
    [("top_k", "top_k"), ("a.b-c", "a.b-c"), ("é\r\nx: y", "???x??y"), ("", ""), ("a" * 99, "a" * 60)],
)
def test_a_name_that_a_client_made_up_is_fit_for_a_header(name: str, shown: str) -> None:
    assert json.printable(name) == shown
