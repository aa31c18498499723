"""A value that a JSON schema accepts: what the simulated engine answers with and calls tools with. Pure.

Required properties only, the simplest branch of a choice, small numbers and short words. A keyword that restricts and
is not understood is refused by name, never dropped.
"""

from __future__ import annotations

import math
import random
from typing import Any

from cortex.core.errors import BadRequest
from cortex.engines.json_schemas import check_schema
from cortex.engines.simulated_text import prose
from cortex.wire import json

MAX_DEPTH = 32
MAX_VALUES = 10_000

_REFUSED = frozenset(
    {"contains", "dependentRequired", "dependentSchemas", "else", "if", "minProperties", "not", "pattern", "then"}
)
_FORMATS = {
    "date": "2024-01-15",
    "date-time": "2024-01-15T09:30:00Z",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "time": "09:30:00Z",
    "uri": "https://example.com/",
    "uuid": "6f2c1a9e-3b4d-4c5e-8f70-1a2b3c4d5e6f",
}
_KIND_OF_KEYWORD = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
}


def value_for(schema: Any, chance: random.Random, at: str) -> Any:
    """Return a value that *schema* accepts, a function of *chance*. Raises BadRequest naming *at*."""
    check_schema(schema, at, enforced=True)
    try:
        return _Maker(schema, chance, at).value(schema, 0)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise BadRequest(f"{at}: not a valid JSON schema: {error}", param=at) from None


class _Maker:
    """Makes one value; counts what it made, so that a schema cannot ask for a world."""

    def __init__(self, root: Any, chance: random.Random, at: str) -> None:
        self._root = root
        self._chance = chance
        self._at = at
        self._left = MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise self._refusal("it is recursive, or asks for too large a value")
        if not isinstance(schema, dict):
            return self._any_value(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._one_of(schema["enum"])
        if schema.keys() & {"$ref", "allOf", "anyOf", "oneOf"}:
            return self._combined(schema, depth)
        for keyword in sorted(_REFUSED & schema.keys()):
            raise self._refusal(f"the simulated engine cannot honour {keyword!r}")
        return self._typed(_kind(schema), schema, depth)

    def _typed(self, kind: str, schema: dict[str, Any], depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "integer":
            return self._integer(schema)
        if kind == "number":
            return self._number(schema)
        if kind == "boolean":
            return self._chance.random() < 0.5
        return None if kind == "null" else self._string(schema)

    def _any_value(self, schema: Any) -> str:
        if schema is not True:
            raise self._refusal(f"{schema!r:.40} is not a schema that a value could follow")
        return self._string({})

    def _one_of(self, values: Any) -> Any:
        if not isinstance(values, list) or not values:
            raise self._refusal("an enum without values")
        return self._chance.choice(values)

    def _combined(self, schema: dict[str, Any], depth: int) -> Any:
        """Return a value for *schema* with its reference, its parts or its simplest branch merged into it."""
        rest = {key: item for key, item in schema.items() if key not in ("$ref", "allOf", "anyOf", "oneOf")}
        for part in schema.get("allOf", ()):
            rest = _merged(rest, self._target(part))
        rest = _merged(rest, self._target({"$ref": schema["$ref"]})) if "$ref" in schema else rest
        branches = schema.get("anyOf") or schema.get("oneOf")
        if not branches:
            return self.value(rest, depth + 1)
        for branch in sorted(branches, key=_effort):
            try:
                return self.value(_merged(rest, branch), depth + 1)
            except BadRequest as error:
                refusal = error
        raise refusal

    def _target(self, schema: Any) -> Any:
        """Return *schema*, or what it stands for if it is a reference."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            rest = {key: item for key, item in schema.items() if key != "$ref"}
            schema = _merged(rest, self._resolve(schema["$ref"]))
        raise self._refusal("it is recursive, or asks for too large a value")

    def _resolve(self, reference: Any) -> Any:
        """Return what a reference within the schema points at (RFC 6901)."""
        node = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise self._refusal(f"$ref {reference!r:.60} does not point into the schema")
        for step in filter(None, reference[1:].split("/")):
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or key not in node:
                raise self._refusal(f"$ref {reference!r:.60} points at nothing")
            node = node[key]
        return node

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return {name: self.value(properties.get(name, others), depth + 1) for name in schema.get("required", ())}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems", MAX_VALUES)
        count = min(max(least, len(first), 0 if items is False else 1), most)
        if count > self._left:
            raise self._refusal(f"minItems {count} is too many")
        values: list[Any] = []
        for _ in range(100 * count if schema.get("uniqueItems") else count):
            at = len(values)
            item = self.value(first[at] if at < len(first) else items, depth + 1)
            if not schema.get("uniqueItems") or item not in values:
                values.append(item)
            if len(values) == count:
                break
        if len(values) < least:
            raise self._refusal(f"no array of {least} different items was found")
        return values

    def _integer(self, schema: dict[str, Any]) -> int:
        step = schema.get("multipleOf", 1)
        if step != int(step):
            raise self._refusal(f"the simulated engine has no integers in steps of {step}")
        return int(self._number({**schema, "multipleOf": max(int(step), 1)}))

    def _number(self, schema: dict[str, Any]) -> float:
        step: float = schema.get("multipleOf", 0)
        low, high = _limits(schema, gap=step or 1e-6)
        first, last = (math.ceil(low / step), math.floor(high / step)) if step else (low, high)
        if first > last:
            raise self._refusal(f"there is no number from {low} to {high}, a multiple of {step}")
        if step:
            return self._chance.randint(int(first), int(last)) * step
        return min(max(round(self._chance.uniform(low, high), 2), low), high)

    def _string(self, schema: dict[str, Any]) -> str:
        least, most = schema.get("minLength", 0), min(schema.get("maxLength", MAX_VALUES), MAX_VALUES)
        if least > most:
            raise self._refusal(f"there is no string of {least} to {most} characters")
        example = _FORMATS.get(str(schema.get("format")))  # a format that is not known only describes
        if example is not None and least <= len(example) <= most:
            return example
        text = prose(self._chance, max(2, least)).rstrip(".")
        return text[: max(least, min(most, 40))]

    def _refusal(self, reason: str) -> BadRequest:
        return BadRequest(f"{self._at}: {reason}", param=self._at)


def json_text(value: Any) -> str:
    """Return *value* as JSON."""
    return json.encode(value).decode()


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return str(next((each for each in kind if each != "null"), "null"))
    return str(kind or next((of for keyword, of in _KIND_OF_KEYWORD.items() if keyword in schema), "string"))


def _effort(branch: Any) -> int:
    """Order branches: plain values, then null, then what may be nested."""
    if not isinstance(branch, dict) or branch.keys() & {"$ref", "properties", "items", "allOf", "anyOf", "oneOf"}:
        return 2
    return int(branch.get("type") == "null")


def _merged(first: dict[str, Any], second: Any) -> Any:
    """Return the schema that asks for both; where they disagree on a keyword, *second* has the word."""
    if not isinstance(second, dict):
        return second if second is not True else first
    both = {**first, **second}
    for keyword in ("properties", "$defs"):
        if keyword in first and keyword in second:
            both[keyword] = {**first[keyword], **second[keyword]}
    for keyword in ("required", "allOf"):
        if keyword in first and keyword in second:
            both[keyword] = [*first[keyword], *second[keyword]]
    return both


def _limits(schema: dict[str, Any], gap: float) -> tuple[float, float]:
    """Return the least and the greatest number that *schema* allows; exclusive ones move in by *gap*."""
    lows = [schema[k] + more for k, more in (("minimum", 0), ("exclusiveMinimum", gap)) if k in schema]
    highs = [schema[k] - less for k, less in (("maximum", 0), ("exclusiveMaximum", gap)) if k in schema]
    width = 100 * max(gap, 1)
    if lows:
        return max(lows), min(highs, default=max(lows) + width)
    high = min(highs, default=width)
    return min(0, high - width), high
