"""The gateway's API as an OpenAPI 3.1 document: the operations, with schemas made from what reads their requests.

Source: the OpenAPI Specification, version 3.1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from cortex import __version__
from cortex.core import errors
from cortex.core.errors import CortexError
from cortex.gateway.operations import OPERATIONS, Operation
from cortex.wire.anthropic.errors import OVERLOADED
from cortex.wire.errors import Envelope
from cortex.wire.json import encode
from cortex.wire.openai import FunctionSpec
from cortex.wire.responses import items, tools

Value = dict[str, Any]

# Errors that are only ever one of another kind.
_KINDS = (CortexError, errors.ConfigError, errors.RequestError, errors.ServiceError)

_REF = "#/components/schemas/{name}"
_DIALECTS = {"openai": "OpenAI", "anthropic": "Anthropic", "responses": "Responses", "ollama": "Ollama"}
_NAMES = {
    "Body": "ResponsesRequest",
    "Prompt": "CountTokensRequest",
    "RerankBody": "RerankRequest",
    "Envelope": "OpenAIError",
    "NewNode": "NewNodeRequest",
    "NewKey": "NewKeyRequest",
    "SignIn": "SignInRequest",
    "LoadOrder": "LoadOrderRequest",
    "UnloadOrder": "UnloadOrderRequest",
    "PinOrder": "PinOrderRequest",
}
# A response's request leaves these to be read one by one, by their type.
_ITEMS: dict[str, type] = {
    "message": items.MessageItem,
    "reasoning": items.ReasoningItem,
    "function_call": items.FunctionCallItem,
    "custom_tool_call": items.CustomCallItem,
    "function_call_output": items.CallOutputItem,
    "custom_tool_call_output": items.CallOutputItem,
}
_TOOLS: dict[str, type] = {"function": FunctionSpec, "custom": tools.CustomSpec, "namespace": tools.NamespaceSpec}

_TEXT = {"type": "string"}
_ENVELOPES: dict[str, Value] = {
    "AnthropicError": {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": _TEXT, "message": _TEXT},
                "required": ["type", "message"],
            },
            "request_id": _TEXT,
        },
        "required": ["type", "error"],
    },
    "OllamaError": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]},
}
_SECURITY: dict[str, Value] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the key file. Without one, none is asked."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as Anthropic's."},
}


async def serve_document(_: Request) -> Response:
    """`GET /openapi.json`."""
    return Response(_rendered(), media_type="application/json")


@cache
def _rendered() -> bytes:
    return encode(document())


def document() -> Value:
    """Return the document as plain values."""
    references, schemas = _schemas()
    paths: dict[str, Value] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, references)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Cortex",
            "version": __version__,
            "summary": "One endpoint over every model on every GPU you own.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in _SECURITY],
        "paths": paths,
        "components": {"schemas": schemas, "responses": _refusals(), "securitySchemes": _SECURITY},
    }


# operations -----------------------------------------------------------------------------------------------------------


def _operation(operation: Operation, references: dict[type, Value]) -> Value:
    told: Value = {
        "operationId": _operation_id(operation),
        "tags": [operation.group],
        "summary": operation.summary,
        "responses": {str(operation.status): _success(operation), **_errors(operation)},
    }
    if operation.is_open:
        told["security"] = []
    if operation.parameters:
        told["parameters"] = [
            {
                "name": each.name,
                "in": each.place,
                "required": each.place == "path",
                "description": each.description,
                "schema": {"type": each.kind},
            }
            for each in operation.parameters
        ]
    if operation.body is not None:
        told["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": references[operation.body]}},
        }
    return told


def _operation_id(operation: Operation) -> str:
    path = f"{operation.path}index" if operation.path.endswith("/") and operation.path != "/" else operation.path
    words = path.replace("{", "").replace("}", "").replace(".", "_").strip("/").split("/")
    return "_".join([operation.method, *words]).rstrip("_")


def _success(operation: Operation) -> Value:
    shape = {"application/json": {"type": "object"}}
    content = {media: {"schema": shape.get(media, {"type": "string"})} for media in operation.answers}
    return {"description": HTTPStatus(operation.status).phrase, "content": content}


def _errors(operation: Operation) -> dict[str, Value]:
    dialect = envelope_of(operation.path)
    return {str(status): {"$ref": f"#/components/responses/{dialect}{status}"} for status in sorted(operation.errors)}


def envelope_of(path: str) -> str:
    """Return the name of the schema in which *path* tells errors."""
    if path.startswith("/v1/messages"):
        return "AnthropicError"
    return "OllamaError" if path.startswith("/api/") else "OpenAIError"


def _refusals() -> dict[str, Value]:
    """Return each refusal that some operation has, by the name that operations call it by."""
    return {
        f"{envelope_of(operation.path)}{status}": {
            "description": _causes(status),
            "content": {"application/json": {"schema": {"$ref": _REF.format(name=envelope_of(operation.path))}}},
        }
        for operation in OPERATIONS
        for status in operation.errors
    }


def _causes(status: int) -> str:
    """Return what a *status* can be due to, a code each."""
    if status == OVERLOADED:
        return "The fleet cannot take the request on now; the same request may succeed later."
    causes = [f"`{error.code}`: {error.__doc__}" if error.code else str(error.__doc__) for error in _of_status(status)]
    return " ".join(causes) or "Internal error; the log has the request's id."


def _of_status(status: int) -> Iterator[type[CortexError]]:
    for error in vars(errors).values():
        if (
            isinstance(error, type)
            and issubclass(error, CortexError)
            and error not in _KINDS
            and error.status == status
        ):
            yield error


# schemas --------------------------------------------------------------------------------------------------------------


def _schemas() -> tuple[dict[type, Value], dict[str, Value]]:
    """Return how each Struct that reads a request is referred to, and the schemas by name."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    types = list(dict.fromkeys([*bodies, Envelope, *_ITEMS.values(), *_TOOLS.values()]))
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    names = {_REF.format(name=name): _REF.format(name=_name(name)) for name in components}
    references: dict[type, Value] = {t: _told(ref, names) for t, ref in zip(types, found, strict=True)}
    schemas = {_name(name): _told(schema, names) for name, schema in components.items()} | _ENVELOPES
    asked = schemas["ResponsesRequest"]["properties"]
    _first_array(asked["input"])["items"] = _by_type(_ITEMS, references)
    _first_array(asked["tools"])["items"] = _by_type(_TOOLS, references)
    return references, dict(sorted(schemas.items()))


def _name(name: str) -> str:
    """Return the name of a component: of Structs that share a name, each with its dialect before it."""
    *module, own = name.lstrip("_").split(".")
    return _NAMES.get(own, "".join(_DIALECTS.get(each, "") for each in module) + own)


def _told(schema: Any, names: dict[str, str]) -> Any:
    """Return *schema* with *names* in place of what they stand for, and patterns in JSON Schema's own dialect."""
    if isinstance(schema, list):
        return [_told(each, names) for each in schema]
    if isinstance(schema, str):
        return names.get(schema, schema)
    if not isinstance(schema, dict):
        return schema
    told = {key: _told(value, names) for key, value in schema.items()}
    if isinstance(told.get("pattern"), str):
        told["pattern"] = told["pattern"].replace(r"\Z", "$")
    return told


def _first_array(schema: Value) -> Value:
    alternatives: Iterable[Value] = schema["anyOf"]
    return next(each for each in alternatives if each.get("type") == "array")


def _by_type(types: dict[str, type], references: dict[type, Value]) -> Value:
    """Return what is one of *types*, by the name in its `type`. Any other type is ignored, and named as ignored."""
    known = [
        {**references[struct], "properties": {"type": {"const": name}}, "required": ["type"]}
        for name, struct in types.items()
    ]
    return {"anyOf": [*known, {"type": "object"}]}
