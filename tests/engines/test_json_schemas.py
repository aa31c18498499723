from __future__ import annotations

from typing import Any

import pytest

from cortex.core.errors import BadRequest
from cortex.engines.json_schemas import MAX_NODES, check_schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize("enforced", [True, False])
@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "object"},
        {"type": ["string", "null"]},
        of(a={"type": "integer"}, b={"type": "array", "items": {"type": "number"}}),
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "pattern": "^[a-z]{1,3}$"}}},
        {"enum": ["strin", {"type": "made-up", "pattern": "x"}], "const": {"type": "made-up"}},
        {"type": "object", "default": {"type": "made-up", "pattern": "free"}, "examples": [{"pattern": "free"}]},
        # Properties may be called what they like.
        of(type={"type": "string"}, pattern={"type": "string"}, properties=of(items={"type": "null"})),
        {"type": "object", "required": ["type", "pattern"], "dependentRequired": {"type": ["pattern"]}},
        nested(5000),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, dict) or "items" not in value else "deep",
)
def test_what_a_grammar_can_hold_is_accepted(schema: Any, enforced: bool) -> None:
    check_schema(schema, "schema", enforced=enforced)


@pytest.mark.parametrize("enforced", [True, False])
@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "strin"}, "schema.type"),
        ({"type": ["string", "nul"]}, "schema.type"),
        (of(a={"type": "int"}), "schema.properties.a.type"),
        (of(default={"type": "int"}), "schema.properties.default.type"),
        (of(enum={"type": "int"}), "schema.properties.enum.type"),
        ({"anyOf": [{"type": "null"}, {"type": "x"}]}, "schema.anyOf[1].type"),
        ({"$defs": {"A": {"items": {"type": "x"}}}}, "schema.$defs.A.items.type"),
        ({"patternProperties": {"^const$": {"type": "x"}}}, "schema.patternProperties.^const$.type"),
        ({"not": {"type": "x"}}, "schema.not.type"),
    ],
)
def test_a_type_that_there_is_not_is_refused_by_place(schema: Any, param: str, enforced: bool) -> None:
    with pytest.raises(BadRequest) as caught:
        check_schema(schema, "schema", enforced=enforced)

    assert caught.value.param == param


@pytest.mark.parametrize("pattern", ["[a-z]+", "^[a-z]+", "[a-z]+$", "", "^[$", "^(a$", "^*$", "^(?P<n>a)(?P<n>b)$"])
def test_a_pattern_that_cannot_be_enforced_is_refused_only_where_it_must_be(pattern: str) -> None:
    schema = of(code={"type": "string", "pattern": pattern})

    with pytest.raises(BadRequest) as caught:
        check_schema(schema, "tools[0].parameters", enforced=True)

    assert caught.value.param == "tools[0].parameters.properties.code.pattern"
    check_schema(schema, "tools[0].parameters", enforced=False)


def test_a_schema_too_large_to_look_through_is_refused() -> None:
    check_schema({"anyOf": [{}] * (MAX_NODES - 1)}, "schema", enforced=True)

    with pytest.raises(BadRequest) as caught:
        check_schema({"anyOf": [{}] * MAX_NODES}, "schema", enforced=True)

    assert caught.value.param == "schema"


def test_a_long_name_does_not_make_a_long_message() -> None:
    with pytest.raises(BadRequest) as caught:
        check_schema({"type": "x" * 100_000}, "schema", enforced=True)

    assert len(caught.value.message) < 200
