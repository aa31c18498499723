"""What each dialect's clients ask for beside inference."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.gateway.dialects import RESPONSES
from cortex.wire.envelopes import MESSAGES
from fake_fleet import Call, FakeFleet, FakeNode, Gateway, soon

pytestmark = pytest.mark.anyio

COUNT = f"{MESSAGES}/count_tokens"
TOKENIZE = "/tokenize"
ANTHROPIC = {"anthropic-version": "2023-06-01"}
HI = [{"role": "user", "content": "hi"}]


async def request(gateway: Gateway, method: str, path: str, **fields: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await soon(client.request(method, gateway.url + path, **fields))


async def count(gateway: Gateway, **fields: Any) -> httpx2.Response:
    return await request(gateway, "POST", COUNT, json={"model": "m", "messages": HI, **fields})


async def counting(fleet: FakeFleet, name: str = "a", **models: str) -> FakeNode:
    """Start a node that counts 42 tokens in whatever it is given."""
    node = await fleet.node(name, **models)
    node.script(tell, TOKENIZE)
    return node


async def tell(call: Call) -> None:
    await call.respond(200, {"tokens": [1], "count": 42})


# counting -------------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_counted_by_the_model_that_would_read_it(fleet: FakeFleet) -> None:
    node = await counting(fleet)
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    gateway = await fleet.gateway(ModelSpec(id="m", aliases=("claude-x",)))
    answer = await count(gateway, model="claude-x", system="be brief", tools=tools)

    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 42})
    (call,) = node.asked(TOKENIZE)
    asked = call.json()
    assert asked["model"] == "m"
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert asked["tools"][0]["function"]["name"] == "f"


async def test_what_a_count_ignores_is_named(fleet: FakeFleet) -> None:
    await counting(fleet)
    answer = await count(await fleet.gateway(), unheard_of=1)

    assert answer.headers["x-cortex-ignored"] == "unheard_of"


async def test_a_cold_model_is_loaded_for_a_count_where_no_node_has_its_files(fleet: FakeFleet) -> None:
    node = await counting(fleet, other="ready")
    node.script(lambda call: call.refuse(409, "model_not_cached") if "m" not in node.models else tell(call), TOKENIZE)
    answer = await count(await fleet.gateway(ModelSpec(id="m")))

    assert answer.json() == {"input_tokens": 42}
    assert len(node.asked("/models/load")) == 1


async def test_a_count_holds_no_place_once_it_is_over(fleet: FakeFleet) -> None:
    node = await counting(fleet)
    gateway = await fleet.gateway()
    await count(gateway)
    node.script(lambda call: call.refuse(500, "broken"), TOKENIZE)
    await count(gateway)

    assert gateway.cortex.steward.reconciler.doors.flights == {}


@pytest.mark.parametrize(
    ("fields", "status", "kind", "message"),
    [
        ({"messages": None}, 400, "invalid_request_error", "messages"),
        ({"messages": "hi"}, 400, "invalid_request_error", "messages"),
        ({"model": 1}, 400, "invalid_request_error", "model"),
        ({"model": "../x"}, 404, "not_found_error", "does not exist"),
        ({"model": "n"}, 404, "not_found_error", "does not exist"),
    ],
)
async def test_a_count_that_cannot_be_made_is_refused_in_anthropic_s_envelope(
    fleet: FakeFleet, fields: dict[str, Any], status: int, kind: str, message: str
) -> None:
    await counting(fleet)
    answer = await count(await fleet.gateway(), **fields)

    assert answer.status_code == status
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)
    assert message in answer.json()["error"]["message"]
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_a_node_s_refusal_to_count_keeps_its_headers_and_none_of_its_secrets(fleet: FakeFleet) -> None:
    node = await counting(fleet)
    gateway = await fleet.gateway()
    node.script(lambda call: call.refuse(503, "shutting_down", "going", retry_after="7"), TOKENIZE)
    refused = await count(gateway)

    assert (refused.status_code, refused.json()["error"]["type"]) == (529, "overloaded_error")
    assert refused.headers["retry-after"] == "7"

    node.script(lambda call: call.respond(401, b"secret", www_authenticate="Basic"), TOKENIZE)
    hidden = await count(gateway)

    assert hidden.status_code == 502
    assert b"secret" not in hidden.content
    assert "www-authenticate" not in hidden.headers


async def test_a_count_that_cannot_be_read_is_the_node_s_fault(fleet: FakeFleet) -> None:
    node = await counting(fleet)
    node.script(lambda call: call.respond(200, {"tokens": []}), TOKENIZE)
    answer = await count(await fleet.gateway())

    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "api_error")


async def test_a_count_is_asked_for_as_json(fleet: FakeFleet) -> None:
    answer = await request(await fleet.gateway(), "POST", COUNT, content=b"{}", headers={"content-type": "text/plain"})

    assert answer.status_code == 415
    assert answer.json()["type"] == "error"


# responses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_response_that_is_not_kept_is_not_found(fleet: FakeFleet, method: str) -> None:
    answer = await request(await fleet.gateway(), method, f"{RESPONSES}/resp_1")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "resp_1" in answer.json()["error"]["message"]


async def test_a_response_can_be_asked_for_whole_and_deleted_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    message = {"role": "assistant", "content": "hi"}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    node.script(lambda call: call.respond(200, whole))
    gateway = await fleet.gateway()
    made = (await request(gateway, "POST", RESPONSES, json={"model": "m", "input": "hi"})).json()
    path = f"{RESPONSES}/{made['id']}"

    assert (await request(gateway, "GET", path)).json() == made
    streamed = await request(gateway, "GET", f"{path}?stream=true")
    assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "stream")
    gone = await request(gateway, "DELETE", path)
    assert gone.json() == {"id": made["id"], "object": "response", "deleted": True}
    assert (await request(gateway, "GET", path)).status_code == 404
    assert (await request(gateway, "DELETE", path)).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"connection": "Upgrade", "upgrade": "websocket"}])
async def test_a_probe_for_a_websocket_is_told_to_stay_with_http(fleet: FakeFleet, headers: dict[str, str]) -> None:
    """Codex goes on over HTTP at once; at any other status it tries again, and again."""
    answer = await request(await fleet.gateway(), "GET", RESPONSES, headers=headers)

    assert answer.status_code == 426
    assert answer.json()["error"]["code"] == "upgrade_required"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_another_method_is_not_for_responses(fleet: FakeFleet, method: str) -> None:
    assert (await request(await fleet.gateway(), method, RESPONSES)).status_code == 405


# what clients probe for -----------------------------------------------------------------------------------------------


async def test_a_head_of_the_root_has_no_body(fleet: FakeFleet) -> None:
    answer = await request(await fleet.gateway(), "HEAD", "/")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_models_are_listed_in_the_shape_of_who_asks(fleet: FakeFleet) -> None:
    await fleet.node("a", **{"org/m": "ready", "n": "ready"})
    gateway = await fleet.gateway()
    ours = (await request(gateway, "GET", "/v1/models")).json()
    theirs = (await request(gateway, "GET", "/v1/models", headers=ANTHROPIC)).json()

    assert ours["object"] == "list"
    assert [entry["id"] for entry in theirs["data"]] == [entry["id"] for entry in ours["data"]] == ["n", "org/m"]
    assert {entry["type"] for entry in theirs["data"]} == {"model"}
    assert (theirs["has_more"], theirs["first_id"], theirs["last_id"]) == (False, "n", "org/m")


async def test_models_are_listed_page_by_page(fleet: FakeFleet) -> None:
    await fleet.node("a", one="ready", three="ready", two="ready")
    gateway = await fleet.gateway()
    first = (await request(gateway, "GET", "/v1/models?limit=2", headers=ANTHROPIC)).json()
    rest = (await request(gateway, "GET", "/v1/models?limit=2&after_id=three", headers=ANTHROPIC)).json()

    assert ([entry["id"] for entry in first["data"]], first["has_more"]) == (["one", "three"], True)
    assert ([entry["id"] for entry in rest["data"]], rest["has_more"]) == (["two"], False)


@pytest.mark.parametrize("limit", ["0", "1001", "x", "1.5", ""])
async def test_a_page_of_no_size_is_refused(fleet: FakeFleet, limit: str) -> None:
    answer = await request(await fleet.gateway(), "GET", f"/v1/models?limit={limit}", headers=ANTHROPIC)

    assert answer.status_code == 400
    assert "limit" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["org/m", "org%2Fm"])
async def test_a_model_is_described_in_the_shape_of_who_asks(fleet: FakeFleet, name: str) -> None:
    await fleet.node("a", **{"org/m": "ready"})
    gateway = await fleet.gateway()
    ours = (await request(gateway, "GET", f"/v1/models/{name}")).json()
    theirs = (await request(gateway, "GET", f"/v1/models/{name}", headers=ANTHROPIC)).json()

    assert (ours["object"], ours["id"]) == ("model", "org/m")
    assert (theirs["type"], theirs["id"], theirs["display_name"]) == ("model", "org/m", "org/m")
    assert theirs["created_at"].endswith("Z")
