"""What a client's JSON schema may ask of a grammar: the parts that would be dropped in silence are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cortex.core.errors import BadRequest

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_DATA = frozenset({"enum", "const", "default", "examples", "required", "dependentRequired"})
_TABLES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # name → schema
MAX_NODES = 20_000


def check_schema(schema: Any, at: str, *, enforced: bool) -> None:
    """Raise BadRequest naming the place in *schema* that cannot be honoured.

    A schema that is *enforced* constrains every token, so what the grammar would drop counts; the parameters of a tool
    that the model may or may not call only describe it.
    """
    for count, (node, where) in enumerate(subschemas(schema, at), 1):
        if count > MAX_NODES:
            raise BadRequest(f"{at}: more than {MAX_NODES} nodes", param=at)
        _check_node(node, where, enforced)


def subschemas(schema: Any, at: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each schema in *schema*, however deep, and its place: not data, and not the tables that name schemas."""
    pending: list[tuple[Any, str, bool]] = [(schema, at, False)]
    while pending:
        node, where, is_table = pending.pop()
        if isinstance(node, list):
            pending += [(item, f"{where}[{index}]", False) for index, item in enumerate(node)]
        elif isinstance(node, dict):
            if not is_table:
                yield node, where
            for key, item in node.items():
                if isinstance(item, dict | list) and (is_table or key not in _DATA):
                    pending.append((item, f"{where}.{key}", not is_table and key in _TABLES))


def _check_node(node: dict[str, Any], where: str, enforced: bool) -> None:
    kind = node.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
    for name in kinds:
        if isinstance(name, str) and name not in _TYPES:
            raise BadRequest(f"{where}.type: {name[:40]!r} is not a JSON schema type", param=f"{where}.type")
    pattern = node.get("pattern")
    if enforced and isinstance(pattern, str):
        _check_pattern(pattern, f"{where}.pattern")


def _check_pattern(pattern: str, where: str) -> None:
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise BadRequest(f"{where}: only a pattern anchored with ^ and $ can be enforced", param=where)
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadRequest(f"{where}: not a regular expression: {error}", param=where) from None
