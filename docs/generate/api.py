"""The page of the HTTP API, from the OpenAPI document that the gateway serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import cleandoc
from typing import Any

from cortex.core import errors
from cortex.core.errors import CortexError
from cortex.gateway.openapi import document, envelope_of

Value = dict[str, Any]

HEAD = """# HTTP API

<!-- Written by docs/generate: `make docs`. -->

What the gateway answers to, from the OpenAPI 3.1 document that it serves at `/openapi.json`: a program that wants to
know reads it there. [Keys](keys.md) says who may ask for what, and [Clients](clients.md) how to point one at it. A
field that is not listed is refused by name, or named in `x-cortex-ignored`.

"""


def page() -> str:
    """Return the page as it is to be."""
    told = document()
    groups: dict[str, list[str]] = {}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    sections = [f"## {group}\n\n" + "\n".join(operations) for group, operations in groups.items()]
    return HEAD + "\n".join([*sections, _errors(), "## Schemas\n", *_schemas(told["components"]["schemas"])])


def _errors() -> str:
    """Return each error that has a code of its own, by status; some are given another code where they are raised."""
    known = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CortexError)]
    coded = sorted((each for each in known if each.code), key=lambda each: (each.status, str(each.code)))
    rows = (f"| {each.status} | `{each.code}` | {_cell((each.__doc__ or '').split(chr(10))[0])} |" for each in coded)
    return "\n".join(["## Errors", "", "| status | code | |", "|---|---|---|", *rows, ""])


def _operation(method: str, path: str, operation: Value) -> str:
    opens = " Open to everybody." if operation.get("security") == [] else ""
    lines = [f"### {method.upper()} {path}", "", operation["summary"] + opens, ""]
    if "requestBody" in operation:
        lines += [f"Body: {_shape(operation['requestBody']['content']['application/json']['schema'])}.", ""]
    if "parameters" in operation:
        given = operation["parameters"]
        rows = (f"| `{each['name']}` | {each['in']} | {_cell(each['description'])} |" for each in given)
        lines += ["| parameter | in | |", "|---|---|---|", *rows, ""]
    return "\n".join([*lines, *_answers(path, operation["responses"])])


def _answers(path: str, responses: Value) -> Iterator[str]:
    refused = [status for status in responses if "$ref" in responses[status]]
    for status, answer in responses.items():
        if status not in refused:
            yield f"Answers {status}: {', '.join(f'`{media}`' for media in answer['content'])}."
    if refused:
        yield f"Refuses with {', '.join(refused)}, as {_link(envelope_of(path))}."
    yield ""


def _schemas(schemas: Value) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f"### {name}\n"
        if schema.get("description"):
            yield _prose(schema["description"]) + "\n"
        properties = schema.get("properties", {})
        if properties:
            yield "| field | type | |\n|---|---|---|"
            required = schema.get("required", ())
            yield "\n".join(_field(key, value, key in required) for key, value in properties.items()) + "\n"
        else:
            yield f"{_shape(schema)}\n"


def _field(name: str, schema: Value, is_required: bool) -> str:
    said = ["required"] if is_required else []
    if schema.get("default") not in (None, [], {}):
        said.append(f"default `{schema['default']!r}`")
    bounds = (("minimum", "at least"), ("maximum", "at most"))
    said += [f"{word} {schema[key]}" for key, word in bounds if key in schema]
    return f"| `{name}` | {_cell(_shape(schema))} | {_cell(', '.join(said))} |"


def _shape(schema: Value) -> str:
    """Return *schema* in a few words, named schemas as links."""
    if "$ref" in schema:
        return _link(schema["$ref"].rsplit("/", 1)[1])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _either(_shape(each) for each in schema[key])
    if "enum" in schema:
        return _either(f"`{value!r}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']!r}`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_shape(schema.get('items', {}))}"
    return _either(kind) if isinstance(kind, list) else str(kind)


def _either(shapes: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(shapes))


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _prose(text: str) -> str:
    return cleandoc(text).replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
