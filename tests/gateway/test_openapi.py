"""The document of the API: true to what is served, and sound as a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig
from cortex.gateway.dialects import PATHS
from cortex.gateway.openapi import document
from cortex.gateway.operations import OPERATIONS
from fake_fleet import FakeFleet

DOCUMENT = document()
METHODS = [(path, method, told) for path, methods in DOCUMENT["paths"].items() for method, told in methods.items()]


def described() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, method, _ in METHODS}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from references(each)


def found(reference: str) -> Any:
    at: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        at = at[step]
    return at


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """What a gateway serves: the routes of its application as they are handed over, and the data path."""
    tables: list[list[Route]] = []

    def starlette(routes: list[Route], **more: Any) -> Starlette:
        tables.append(routes)
        return Starlette(routes=routes, **more)

    monkeypatch.setattr("cortex.gateway.app.Starlette", starlette)
    CortexGateway(GatewayConfig(), Catalogue(), tmp_path).application()
    (table,) = tables
    plain = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in table
        if route.include_in_schema
        for method in route.methods or ()
    }
    return {(method, path) for method, path in plain if method != "HEAD"} | {("POST", path) for path in PATHS}


def test_every_route_is_in_the_document_and_nothing_else(served: set[tuple[str, str]]) -> None:
    assert described() == served


@pytest.mark.anyio
async def test_the_document_is_served_to_whoever_asks(fleet: FakeFleet) -> None:
    answer = await (await fleet.gateway()).get("/openapi.json")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == DOCUMENT
    assert answer.json()["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to() -> None:
    all_references = set(references(DOCUMENT))

    assert all(found(reference) for reference in all_references)
    schemas, responses = (DOCUMENT["components"][kind] for kind in ("schemas", "responses"))
    assert {f"#/components/schemas/{name}" for name in schemas} <= all_references
    assert {f"#/components/responses/{name}" for name in responses} <= all_references


def test_no_two_operations_share_an_id() -> None:
    ids = [told["operationId"] for *_, told in METHODS]

    assert len(set(ids)) == len(ids) == len(OPERATIONS)


def test_every_parameter_of_a_path_is_described() -> None:
    for path, _, told in METHODS:
        in_path = {each["name"] for each in told.get("parameters", ()) if each["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_every_operation_but_the_open_ones_names_the_refusal_of_a_key() -> None:
    for path, _, told in METHODS:
        is_open = told.get("security") == []
        assert is_open == (path in ("/", "/health", "/openapi.json", "/fleet/join") or path.startswith("/ui"))
        assert ("401" in told["responses"]) is not is_open or path in ("/ui/session", "/fleet/join")


@pytest.mark.parametrize(
    ("path", "envelope"),
    [
        ("/v1/messages/count_tokens", "AnthropicError"),
        ("/api/chat", "OllamaError"),
        ("/v1/chat/completions", "OpenAIError"),
    ],
)
def test_refusals_have_the_envelope_of_their_dialect(path: str, envelope: str) -> None:
    refusal = found(DOCUMENT["paths"][path]["post"]["responses"]["400"]["$ref"])

    assert refusal["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{envelope}"}


def test_a_refusal_tells_what_it_can_be_due_to() -> None:
    assert (
        "`insufficient_memory`: The model does not fit"
        in DOCUMENT["components"]["responses"]["OpenAIError503"]["description"]
    )


def test_patterns_are_of_the_dialect_that_json_schema_has() -> None:
    assert r"\\Z" not in repr(DOCUMENT)


def test_items_and_tools_of_a_response_are_told_by_their_type() -> None:
    asked = found("#/components/schemas/ResponsesRequest")["properties"]
    items = next(each for each in asked["input"]["anyOf"] if each.get("type") == "array")["items"]["anyOf"]

    assert items[0]["properties"] == {"type": {"const": "message"}}
    assert items[-1] == {"type": "object"}
