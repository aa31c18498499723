"""Bodies for fuzzing: what a JSON Schema allows, and then something about it that is wrong.

A body begins as one that a schema allows, with words where the code looks for them; it is then spoiled as a value (a
wrong type, a missing or an unknown field, a number beyond all bounds) or as bytes (cut short, not UTF-8, a key twice).
Most are refused, but not before the reader has come to the spot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

DEEP = 5
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})

# What a field of this name is read as, where the schema says no more than that it is text.
WORDS: dict[str, Sequence[Any]] = {
    "type": (
        *("text", "image", "image_url", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"),
        *("function", "custom", "namespace", "allowed_tools", "web_search_20250305", "grammar", "base64", "url"),
        *("input_text", "output_text", "summary_text", "refusal", "input_image", "input_file", "item_reference"),
    ),
    "url": (f"data:image/png;base64,{PNG}", "data:image/png;base64,!", "data:,", "http://127.0.0.1/", "file:///x"),
    "image_url": (f"data:image/png;base64,{PNG}", "data:image/gif;base64,R0lGODlh", "https://[", ""),
    "data": (PNG, PNG[:-8], "R0lGODlh", "####", ""),
    "file_data": (f"data:text/plain;base64,{PNG}", "data:text/plain,x", "data:application/json;base64,e30="),
    "images": (PNG, "!"),
    "media_type": ("image/png", "text/plain", "application/pdf"),
    "arguments": ("{}", '{"a": 1}', "{", "[]", '{"a": "\\ud800"}', "null"),
    "encrypted_content": ("cortex1:aGk=", "cortex1:/w==", "cortex1:!", "other"),
    "keep_alive": ("5m", "-1", "0", "1h2m3s", "x", -1, 1e308),
    "endpoint": ("http://127.0.0.1:1", "http://[::1", "ftp://x", "http://127.0.0.1:99999", "//", "http://a b/"),
    "effort": ("low", "none", "much"),
}

JUNK: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", " ", "null", "x" * 70_000, "\ud800", "a\u0000b", "\u202e\U0001f600", "../../etc/passwd"),
    *("m\r\nX: 1", "%s%n{}", [], {}, [[]], [None], [0] * 1000, ["x"] * 1000, {"": None}, {"type": None}, {"$ref": "#"}),
)
DEEP_JSON = b"[" * 5000 + b"]" * 5000
BAD_BYTES = (
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"NaN",
    b"1e999",
    b",",
)


@dataclass(frozen=True)
class Bodies:
    """What the *schemas*, by name, allow. *models* are names worth asking for, in the fields that *name_fields* are."""

    schemas: Mapping[str, Any]
    models: Sequence[str]
    name_fields: tuple[str, ...] = ("model",)

    def near(self, schema: Mapping[str, Any], known: Sequence[Any] = ()) -> st.SearchStrategy[bytes]:
        """Return bodies that *schema* allows, or nearly does; some begin as one that is *known* to be good."""

        @st.composite
        def bodies(draw: Draw) -> bytes:
            value = self._value(draw, schema, "", 0)
            if known and draw(st.booleans()):
                good = draw(st.sampled_from(known))
                value = {**value, **good} if draw(st.integers(0, 3)) == 0 else good
            for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
                value = _spoilt(draw, value)
            body = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
            return _spoilt_bytes(draw, body) if draw(st.integers(0, 5)) == 0 else body

        return bodies()

    def _value(self, draw: Draw, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        """Draw what *schema* allows of the field *name*."""
        if "$ref" in schema:
            schema = self._resolved(schema)
        if "const" in schema or "enum" in schema:
            return draw(st.sampled_from(schema.get("enum") or [schema.get("const")]))
        if "anyOf" in schema:
            return self._value(draw, draw(st.sampled_from(_open(schema["anyOf"], depth))), name, depth)
        return self._typed(draw, schema, name, depth)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        named = self.schemas[schema["$ref"].rpartition("/")[2]]
        properties = {**named.get("properties", {}), **schema.get("properties", {})}
        return {**named, "properties": properties, "required": [*named["required"], *schema.get("required", ())]}

    def _typed(self, draw: Draw, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type")
        if kind == "object":
            return self._object(draw, schema, depth)
        if kind == "array":
            most = min(schema.get("maxItems", 3), 3 if depth < DEEP else 1)
            size = draw(st.integers(min(schema.get("minItems", 0), most), most))
            return [self._value(draw, schema.get("items", {}), name, depth + 1) for _ in range(size)]
        if kind == "string":
            return self._text(draw, schema, name)
        if kind == "boolean":
            return draw(st.booleans())
        if kind in ("integer", "number"):
            return draw(_number(schema, kind))
        return None if kind == "null" else draw(st.sampled_from(JUNK))

    def _object(self, draw: Draw, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        optional = sorted(properties.keys() - required)
        some = draw(st.lists(st.sampled_from(optional), max_size=4, unique=True)) if optional else []
        value = {name: self._value(draw, properties[name], name, depth + 1) for name in sorted({*required, *some})}
        more = schema.get("additionalProperties")
        if isinstance(more, dict) and not properties:
            for key in draw(st.lists(_names(schema), max_size=2)):
                value[key] = self._value(draw, more, key, depth + 1)
        return value

    def _text(self, draw: Draw, schema: Mapping[str, Any], name: str) -> Any:
        if name in self.name_fields:
            return draw(st.sampled_from(self.models))
        if name in WORDS:
            return draw(st.sampled_from(WORDS[name]))
        if "pattern" in schema:
            return draw(st.from_regex(schema["pattern"].replace("$", r"\Z")))
        return draw(st.text(min_size=schema.get("minLength", 0), max_size=10))


def _open(alternatives: Sequence[Any], depth: int) -> Sequence[Any]:
    """Return the alternatives that are still open at *depth*: far down, the flat ones."""
    flat = [each for each in alternatives if each.get("type") in _SCALARS or "enum" in each]
    return flat if depth > DEEP and flat else alternatives


def _names(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    pattern = schema.get("propertyNames", {}).get("pattern")
    return st.from_regex(pattern.replace("$", r"\Z")) if pattern else st.text(max_size=5)


def _number(schema: Mapping[str, Any], kind: str) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if kind == "integer":
        return st.integers(low, high)
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def _spoilt(draw: Draw, value: Any) -> Any:
    """Return *value* with one thing in it replaced, left out, or added."""
    if isinstance(value, dict) and value:
        key, way = draw(st.sampled_from(sorted(value))), draw(st.integers(0, 5))
        if way == 0:
            return {name: each for name, each in value.items() if name != key}
        if way == 1:
            return {**value, draw(st.sampled_from(("unheard_of", "a\r\nb: c", "\u00e9", "x" * 300, "grammar"))): 1}
        return {**value, key: _spoilt(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _spoilt(draw, value[at]), *value[at + 1 :]]
    return draw(st.sampled_from(JUNK))


def _spoilt_bytes(draw: Draw, body: bytes) -> bytes:
    """Return *body* with something about its bytes that is wrong."""
    at = draw(st.integers(0, len(body)))
    ways: Sequence[Callable[[], bytes]] = (
        lambda: body[:at],
        lambda: body[:at] + draw(st.sampled_from(BAD_BYTES)) + body[at:],
        lambda: body + body,
        lambda: b"{" + draw(st.sampled_from((b'"model":1,', b'"stream":true,', b'"model":"nope",'))) + body[1:],
        lambda: b'{"deep":' + DEEP_JSON + b"," + body[1:],
        lambda: body.decode("utf-8", "replace").encode("utf-16"),
        lambda: draw(st.sampled_from((b"", b"null", b"[]", b"0", b'""', DEEP_JSON))),
        lambda: draw(st.binary(max_size=40)),
    )
    spoil = draw(st.sampled_from(ways))
    return bytes(spoil())
