"""Keys at the running gateway: who is let in, what they may use, what they pay, and what is never told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cortex.core.errors import BudgetExceeded, ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.access import Access, check_listening, wanted_scope
from cortex.gateway.config import KeySettings
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key, load_keys, remove_key
from cortex.gateway.keys.ledger import StoreError, Use
from cortex.gateway.keys.secret import new_key
from cortex.gateway.relay import Outcome
from cortex.gateway.story import paid_usage
from cortex.wire.engine_api import Timings, Usage
from cortex.wire.openai import CHAT
from cortex.wire.sse import Trailer
from fake_fleet import EVENTS, Call, FakeFleet, Gateway, ask, soon, until

pytestmark = pytest.mark.anyio

TOKEN = "the-token-of-all-nodes"
MESSAGES = json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).encode()
ESTIMATE = 1 + len(ask()) // 4


class Ring:
    """A key file, and the keys of it: `ring(name, **limits)` makes one and returns how it is shown."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "keys.toml"
        self.secrets: list[str] = []

    def __call__(self, name: str, **limits: Any) -> str:
        secret = new_key()
        self.secrets.append(secret.reveal())
        add_key(self.file, KeyEntry(name=name, sha256=secret.digest.hex(), **limits))
        return f"Bearer {secret.reveal()}"

    @property
    def settings(self) -> KeySettings:
        return KeySettings(file=str(self.file))


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


async def answer_whole(call: Call) -> None:
    """Answer what can be translated."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    await call.respond(200, {**body, "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}})


async def used(gateway: Gateway) -> list[tuple[int, int, int]]:
    """Return requests, prompt and completion tokens in the ledger, by key and minute."""
    await gateway.idle()
    return [use[2:] for use in await gateway.cortex.access.ledger.history(0)]


# who is let in --------------------------------------------------------------------------------------------------------


async def test_without_keys_everybody_may_do_everything(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()

    for path in ("/fleet", "/metrics", "/v1/models"):
        assert (await gateway.get(path)).status_code == 200
    answer = await gateway.post(ask())
    assert answer.status_code == 200
    assert not [name for name in answer.headers if "ratelimit" in name]
    assert await gateway.sample("cortex_key_requests_total", key="anonymous") == 1


@pytest.mark.parametrize("shown", ["", "Bearer ctx_wrong", "Basic ctx_wrong", "Bearer sk-of-somebody-else"])
async def test_nobody_gets_in_without_a_key(fleet: FakeFleet, ring: Ring, shown: str) -> None:
    ring("ada")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    for path in ("/v1/models", "/v1/models/m", "/v1/responses/resp_1", "/fleet", "/fleet/events", "/metrics", "/nope"):
        answer = await gateway.get(path, authorization=shown)

        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert answer.json()["error"]["code"] == "invalid_api_key"
    refused = await gateway.post(ask(), authorization=shown)
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert "m" not in refused.json()["error"]["message"].split()
    counted = await gateway.post(MESSAGES, "/v1/messages/count_tokens", authorization=shown)
    assert (counted.status_code, counted.json()["type"]) == (401, "error")
    assert not node.asked()


async def test_a_key_is_asked_for_before_a_request_is_read(fleet: FakeFleet, ring: Ring) -> None:
    """What is wrong with a body is nobody's business who may not send one."""
    ring("ada")
    gateway = await fleet.gateway(keys=ring.settings)

    assert (await gateway.post(b"no JSON")).status_code == 401
    assert (await gateway.post(b"no JSON", content_type="text/plain")).status_code == 401


async def test_a_refusal_is_in_the_dialect_of_its_path(fleet: FakeFleet, ring: Ring) -> None:
    ring("ada")
    answer = await (await fleet.gateway(keys=ring.settings)).post(MESSAGES, "/v1/messages")

    assert answer.status_code == 401
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", "authentication_error")


@pytest.mark.parametrize("header", ["authorization", "x_api_key"])
async def test_a_key_is_taken_from_either_header(fleet: FakeFleet, ring: Ring, header: str) -> None:
    shown = ring("ada").removeprefix("" if header == "authorization" else "Bearer ")
    node = await fleet.node()
    node.script(answer_whole)
    gateway = await fleet.gateway(keys=ring.settings)

    assert (await gateway.post(ask(), **{header: shown})).status_code == 200
    assert (await gateway.post(MESSAGES, "/v1/messages", **{header: shown})).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_health_is_for_everybody(fleet: FakeFleet, ring: Ring, path: str) -> None:
    ring("ada")

    assert (await (await fleet.gateway(keys=ring.settings)).get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/fleet", "/%66leet", "//fleet", "/fleet/decisions", "/metrics", "/fleet/explain/m"])
async def test_the_operator_s_routes_want_an_admin_s_key(fleet: FakeFleet, ring: Ring, path: str) -> None:
    ada, operator = ring("ada"), ring("operator", scope="admin")
    await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    refused = await gateway.get(path, authorization=ada)

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert (await gateway.get(path, authorization=operator)).status_code == 200


async def test_an_order_to_the_fleet_wants_an_admin_s_key(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada")
    await fleet.node("a")
    gateway = await fleet.gateway(keys=ring.settings)

    assert (await gateway.post(b"{}", "/fleet/nodes/a/drain", authorization=ada)).status_code == 403
    assert (await gateway.delete("/fleet/nodes/a", authorization=ada)).status_code == 403
    assert gateway.cortex.nodes.drained == frozenset()


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/", None),
        ("/health", None),
        ("/openapi.json", None),
        ("/health/", "admin"),
        ("/v1/models", "inference"),
        ("/v1/responses/x", "inference"),
        ("/api/tags", "inference"),
        ("/v1", "admin"),
        ("/metrics", "admin"),
        ("/anything/new", "admin"),
    ],
)
def test_what_is_not_known_to_be_for_all_keys_is_for_admins(path: str, scope: str | None) -> None:
    assert wanted_scope(path) == scope


async def test_a_revoked_key_fails_at_once_and_its_stream_goes_on(fleet: FakeFleet, ring: Ring) -> None:
    ada, _ = ring("ada"), ring("operator")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    revoked = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.open_events()
        await call.events(EVENTS)
        await revoked.wait()
        await call.events(b'data: {"last":1}\n\n' + END)
        await call.close_events()

    node.script(slow)
    async with gateway.stream(ask(stream=True), authorization=ada) as answer:
        pieces = answer.aiter_raw()
        assert await soon(anext(pieces)) == EVENTS
        remove_key(ring.file, "ada")
        await gateway.cortex.access.take(load_keys(ring.file))
        refused = await gateway.post(ask(), authorization=ada)
        revoked.set()
        rest = b"".join([piece async for piece in pieces])

    assert refused.status_code == 401
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await used(gateway) == [(1, 7, 3)]


END = b"data: [DONE]\n\n" + (
    b': cortex {"usage":{"prompt_tokens":7,"completion_tokens":3},"timings":{},"finish_reason":"stop"}\n\n'
)


# what they may use ----------------------------------------------------------------------------------------------------


async def test_a_key_hears_only_of_its_own_models(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada", models=("small", "qwen*"))
    await fleet.node("a", **{"org/m": "ready", "qwen3": "ready", "other": "ready"})
    gateway = await fleet.gateway(ModelSpec(id="org/m", aliases=("small",)), ModelSpec(id="qwen4"), keys=ring.settings)
    listed = (await gateway.get("/v1/models", authorization=ada)).json()
    for_claude = (await gateway.get("/v1/models", authorization=ada, anthropic_version="2023-06-01")).json()

    assert [entry["id"] for entry in listed["data"]] == ["org/m", "qwen3", "qwen4"]
    assert [entry["id"] for entry in for_claude["data"]] == ["org/m", "qwen3", "qwen4"]
    assert (await gateway.get("/v1/models/small", authorization=ada)).status_code == 200


@pytest.mark.parametrize("model", ["other", "no-such-model", "no good name!"])
async def test_another_model_is_refused_whether_it_exists_or_not(fleet: FakeFleet, ring: Ring, model: str) -> None:
    ada = ring("ada", models=("m",))
    node = await fleet.node("a", m="ready", other="ready")
    gateway = await fleet.gateway(keys=ring.settings)
    body = json.dumps({**json.loads(MESSAGES), "model": model}).encode()
    answers = [
        await gateway.post(ask(model), authorization=ada),
        await gateway.post(body, "/v1/messages", authorization=ada),
        await gateway.post(body, "/v1/messages/count_tokens", authorization=ada),
        await gateway.get(f"/v1/models/{model}", authorization=ada),
    ]
    said = {answer.json()["error"]["message"].replace(model, "*") for answer in answers}

    assert [answer.status_code for answer in answers] == [403] * 4
    assert said == {"the key 'ada' may not use the model '*'; GET /v1/models lists its own"}
    assert not [*node.asked(), *node.asked("/tokenize")]
    assert await gateway.sample("cortex_key_refusals_total", key="ada", code="model_not_allowed") == 2


async def test_a_hint_names_no_model_of_others(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada", models=("qwen3-ada*",))
    await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="qwen3-adb"), ModelSpec(id="qwen3-ada"), keys=ring.settings)
    refused = await gateway.post(ask("qwen3-adaa"), authorization=ada)

    assert refused.status_code == 404
    assert "did you mean qwen3-ada?" in refused.json()["error"]["message"]


async def test_a_stored_response_is_its_key_s_alone(fleet: FakeFleet, ring: Ring) -> None:
    ada, bob = ring("ada"), ring("bob")
    node = await fleet.node()
    node.script(answer_whole)
    gateway = await fleet.gateway(keys=ring.settings)
    made = await gateway.post(b'{"model":"m","input":"hi"}', "/v1/responses", authorization=ada)
    path = f"/v1/responses/{made.json()['id']}"

    going_on = json.dumps({"model": "m", "input": "and?", "previous_response_id": made.json()["id"]}).encode()

    assert (await gateway.get(path, authorization=bob)).status_code == 404
    assert (await gateway.post(going_on, "/v1/responses", authorization=bob)).status_code == 400
    assert (await gateway.post(going_on, "/v1/responses", authorization=ada)).status_code == 200
    assert (await gateway.delete(path, authorization=bob)).status_code == 404
    assert (await gateway.get(path, authorization=ada)).status_code == 200
    assert (await gateway.delete(path, authorization=ada)).status_code == 200


# how much -------------------------------------------------------------------------------------------------------------


async def test_an_answer_tells_where_the_limits_stand_and_one_too_many_is_refused(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada", requests_per_minute=2)
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    answers = [await gateway.post(ask(stream=stream), authorization=ada) for stream in (False, True, False)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[2].json()["error"]["code"] == "key_limit_exceeded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert len(node.asked()) == 2
    assert await gateway.sample("cortex_key_requests_total", key="ada") == 2
    assert await gateway.sample("cortex_key_refusals_total", key="ada", code="key_limit_exceeded") == 1


async def test_limits_are_told_in_the_dialect_of_the_path(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada", requests_per_minute=1)
    (await fleet.node()).script(answer_whole)
    gateway = await fleet.gateway(keys=ring.settings)
    answers = [await gateway.post(MESSAGES, "/v1/messages", authorization=ada) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    for answer in answers:
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert "x-ratelimit-remaining-requests" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_costs_what_the_replica_counted(fleet: FakeFleet, ring: Ring, stream: bool) -> None:
    ada = ring("ada", budget_tokens=1000)
    await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    first = await gateway.post(ask(stream=stream, max_tokens=50), authorization=ada)
    second = await gateway.post(ask(stream=stream, max_completion_tokens=30, max_tokens=50), authorization=ada)

    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 1000 - 50 - (
        1 + len(ask(stream=stream, max_tokens=50)) // 4
    )
    size = len(ask(stream=stream, max_completion_tokens=30, max_tokens=50))
    assert int(second.headers["x-ratelimit-remaining-tokens"]) == 1000 - 10 - 30 - (1 + size // 4)
    assert await used(gateway) == [(2, 14, 6)]
    assert await gateway.sample("cortex_key_tokens_total", key="ada", kind="prompt") == 14
    assert await gateway.sample("cortex_key_tokens_total", key="ada", kind="completion") == 6


async def test_what_the_client_hung_up_on_is_paid_by_what_came(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)

    async def endless(call: Call) -> None:
        await call.open_events()
        await call.events(b": keep-alive\n\n" + EVENTS)
        await call.caller_left()

    node.script(endless)
    async with gateway.stream(ask(stream=True), authorization=ada) as answer:
        await soon(anext(answer.aiter_raw()))

    assert await used(gateway) == [(1, 1 + len(ask(stream=True)) // 4, 3)]


async def test_who_leaves_before_the_first_token_pays_for_the_prompt(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    node.script(Call.caller_left)
    leaving = asyncio.ensure_future(gateway.post(ask(), authorization=ada))
    await node.call()
    leaving.cancel()
    await until(lambda: leaving.done())

    assert await used(gateway) == [(1, ESTIMATE, 0)]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_no_replica_began_costs_no_tokens_and_sets_none_aside(
    fleet: FakeFleet, ring: Ring, stream: bool
) -> None:
    ada = ring("ada", budget_tokens=1000, concurrency=1)
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    node.script(lambda call: call.refuse(400, "bad"))
    refused = await gateway.post(ask(stream=stream), authorization=ada)
    unknown = await gateway.post(ask("nope", stream=stream), authorization=ada)
    node.script(lambda call: call.refuse(429, "rate_limit_exceeded"))
    full = await gateway.post(ask(stream=stream), authorization=ada)
    node.script(Call.answer)
    served = await gateway.post(ask(stream=stream, max_tokens=1), authorization=ada)

    assert [answer.status_code for answer in (refused, unknown, full, served)] == [400, 404, 429, 200]
    assert await used(gateway) == [(1, 7, 3)]


async def test_a_whole_answer_that_broke_off_is_paid_by_what_came(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)

    async def dies(call: Call) -> None:
        await call.open_events()
        await call.events(EVENTS)
        call.reset()

    node.script(dies)
    await gateway.post(ask(stream=True), authorization=ada)

    assert await used(gateway) == [(1, 1 + len(ask(stream=True)) // 4, 3)]


async def test_a_request_under_way_takes_one_of_the_key_s_places(fleet: FakeFleet, ring: Ring) -> None:
    ada, bob = ring("ada", concurrency=1), ring("bob", concurrency=1)
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    go = asyncio.Event()

    async def slow(call: Call) -> None:
        await go.wait()
        await call.answer()

    node.script(slow)
    first = asyncio.ensure_future(gateway.post(ask(), authorization=ada))
    await node.call()
    second = await gateway.post(ask(), authorization=ada)
    others = asyncio.ensure_future(gateway.post(ask(), authorization=bob))
    await node.call(number=2)
    go.set()

    assert second.status_code == 429
    assert [(await answer).status_code for answer in (first, others)] == [200, 200]
    assert (await gateway.post(ask(), authorization=ada)).status_code == 200


async def test_counting_tokens_is_a_request_and_costs_none(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada", requests_per_minute=2, tokens_per_minute=1000, concurrency=1)
    node = await fleet.node()
    node.script(lambda call: call.respond(200, {"count": 3, "tokens": [1, 2, 3]}), "/tokenize")
    gateway = await fleet.gateway(keys=ring.settings)
    answers = [await gateway.post(MESSAGES, "/v1/messages/count_tokens", authorization=ada) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert await used(gateway) == []


def trailer(reason: str = "stop") -> Trailer:
    return Trailer(Usage(7, 3) if reason != "error" else Usage(), Timings(), reason)


@pytest.mark.parametrize(
    ("outcome", "usage"),
    [
        (None, None),
        (Outcome(trailer(), events=9), Usage(7, 3)),
        (Outcome(events=0), Usage(20, 0)),
        (Outcome(events=9), Usage(20, 9)),
        (Outcome(trailer("error"), events=9), Usage(20, 8)),
        (Outcome(trailer("error"), events=1), None),
        (Outcome(trailer("error"), events=0), None),
    ],
)
def test_a_request_is_paid_by_the_best_that_is_known_of_it(outcome: Outcome | None, usage: Usage | None) -> None:
    assert paid_usage(outcome, 20) == usage


# the nodes ------------------------------------------------------------------------------------------------------------


async def test_a_node_is_shown_its_token_and_nothing_of_the_client_s(
    fleet: FakeFleet, ring: Ring, tmp_path: Path
) -> None:
    ada = ring("ada")
    (tmp_path / "token").write_text(TOKEN)
    node = await fleet.node("a", m="ready", cold="unloaded")
    settings = KeySettings(file=str(ring.file), node_token_file=str(tmp_path / "token"))
    node.models = {"m": "ready"}
    gateway = await fleet.gateway(ModelSpec(id="cold"), keys=settings)
    for body in (ask(), ask(stream=True), ask("cold")):
        answer = await gateway.post(body, authorization=ada, cookie="a=b", x_api_key=ada.removeprefix("Bearer "))
        assert answer.status_code == 200

    assert {call.path for call in node.calls} >= {"/health", "/discovery", "/models/load", CHAT}
    for call in node.calls:
        headers = dict(call.headers)
        assert headers["authorization"] == f"Bearer {TOKEN}", call.path
        assert not {"x-api-key", "cookie"} & headers.keys()


async def test_a_node_that_refuses_the_token_is_told_of_with_the_reason(fleet: FakeFleet, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    node = await fleet.node()
    for path in ("/health", CHAT):
        node.script(lambda call: call.refuse(401, "invalid_api_key"), path)
    gateway = await fleet.gateway(keys=KeySettings(node_token_file=str(tmp_path / "token")))
    [entry] = (await gateway.get("/fleet")).json()["nodes"]
    answer = await gateway.post(ask())

    assert (entry["healthy"], entry["reason"]) == (False, "refuses our token")
    assert [line["reason"] for line in fleet.events("node_refuses")] == ["refuses our token"]
    assert answer.status_code >= 500


# where from -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/fleet", "/metrics", CHAT, "/v1/messages", "/nope"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [({"host": "evil.example"}, "host_not_allowed"), ({"origin": "https://evil.example"}, "origin_not_allowed")],
)
async def test_no_page_reaches_any_route_through_its_visitor(
    fleet: FakeFleet, path: str, headers: dict[str, str], code: str
) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    is_post = path.endswith(("completions", "messages"))
    answer = await (gateway.post(ask(), path, **headers) if is_post else gateway.get(path, **headers))

    assert answer.status_code == 403
    assert code in answer.text or "evil.example" in answer.json()["error"]["message"]
    assert not node.asked()


async def test_with_keys_the_gateway_goes_by_any_name(fleet: FakeFleet, ring: Ring) -> None:
    ada = ring("ada")
    gateway = await fleet.gateway(keys=ring.settings)

    assert (await gateway.get("/v1/models", authorization=ada, host="gpu.example")).status_code == 200
    foreign = await gateway.get("/v1/models", authorization=ada, origin="https://evil.example")
    assert foreign.status_code == 403


async def test_the_first_key_opens_it_to_all_names(fleet: FakeFleet, ring: Ring) -> None:
    gateway = await fleet.gateway()
    before = await gateway.get("/health", host="gpu.example")
    ring("ada")
    await gateway.cortex.access.take(load_keys(ring.file))

    assert before.status_code == 403
    assert (await gateway.get("/health", host="gpu.example")).status_code == 200
    assert (await gateway.get("/v1/models")).status_code == 401


async def test_it_goes_by_the_names_that_its_owner_says(fleet: FakeFleet, ring: Ring) -> None:
    gateway = await fleet.gateway(keys=KeySettings(allowed_hosts=("gpu.example",)))

    assert (await gateway.get("/health", host="gpu.example:31313")).status_code == 200
    assert (await gateway.get("/health", host="gpu2.example")).status_code == 403


# the start, and edits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "settings", "file", "event"),
    [
        ("127.0.0.1", KeySettings(), False, None),
        ("0.0.0.0", KeySettings(), True, None),
        ("0.0.0.0", KeySettings(auth="none"), False, "gateway_is_open"),
        ("127.0.0.1", KeySettings(auth="none"), True, "gateway_is_open"),
    ],
)
def test_what_is_strange_about_the_start_is_said(
    tmp_path: Path, host: str, settings: KeySettings, file: bool, event: str | None
) -> None:
    if file:
        (tmp_path / "keys.toml").touch()
    with capture_logs() as logs:
        check_listening(settings, tmp_path / "keys.toml", host)

    assert [line["event"] for line in logs] == ([event] if event else [])


def test_a_gateway_that_others_can_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"`cortex key create NAME`.*{tmp_path}/keys.toml"):
        check_listening(KeySettings(), tmp_path / "keys.toml", "0.0.0.0")


def test_a_key_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Access(KeySettings(file="keys.toml"), tmp_path / "keys.toml", tmp_path / "ledger.db", "127.0.0.1")


async def test_a_key_file_without_keys_lets_nobody_in(fleet: FakeFleet, ring: Ring) -> None:
    ring.file.touch()
    gateway = await fleet.gateway(keys=ring.settings)

    assert (await gateway.get("/v1/models")).status_code == 401


async def test_a_key_file_is_not_asked_where_its_owner_says_so(fleet: FakeFleet, ring: Ring) -> None:
    ring("ada")
    gateway = await fleet.gateway(keys=KeySettings(file=str(ring.file), auth="none"))

    assert (await gateway.get("/fleet")).status_code == 200


async def test_what_was_used_counts_after_a_restart(anyio_backend: object, ring: Ring, tmp_path: Path) -> None:
    shown = ring("ada", budget_tokens=100)
    before, after = (Access(ring.settings, ring.file, tmp_path / "ledger.db", "127.0.0.1") for _ in range(2))
    await before.start()
    before.ledger.record(before.enter([(b"authorization", shown.encode())]).id, 60, 30, before.clock())
    await before.ledger.flush()
    await after.start()
    ada = after.enter([(b"authorization", shown.encode())])

    ada.admit(("m",), 10, 0, after.clock()).release(after.clock())
    with pytest.raises(BudgetExceeded):
        ada.admit(("m",), 11, 0, after.clock())


async def test_use_that_cannot_be_read_keeps_the_keys_that_were(
    fleet: FakeFleet, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = ring("ada")
    gateway = await fleet.gateway(keys=ring.settings)
    ring("bob", budget_tokens=5)

    async def broken(_: float) -> list[Use]:
        raise StoreError("disk I/O error")

    monkeypatch.setattr(gateway.cortex.access.ledger, "history", broken)
    with pytest.raises(ConfigError, match="disk I/O error"):
        await gateway.cortex.access.take(load_keys(ring.file))

    assert (await gateway.get("/v1/models", authorization=ada)).status_code == 200


async def test_a_key_is_in_no_log_no_metric_and_no_answer(fleet: FakeFleet, ring: Ring) -> None:
    ada, operator = ring("ada", models=("m",)), ring("operator", scope="admin")
    node = await fleet.node()
    gateway = await fleet.gateway(keys=ring.settings)
    told = [
        await gateway.post(ask(), authorization=ada),
        await gateway.post(ask("other"), authorization=ada),
        await gateway.post(ask(), authorization=ada + "x"),
        await gateway.post(ask(), authorization=ada, x_api_key=operator.removeprefix("Bearer ")),
        await gateway.get("/fleet", authorization=ada),
        await gateway.get("/metrics", authorization=operator),
        await gateway.get("/fleet/decisions", authorization=operator),
    ]
    node.script(Call.caller_left)
    await gateway.idle()
    written = repr(fleet.logs) + "".join(answer.text + repr(answer.headers) for answer in told)

    assert "ada" in written
    for secret in ring.secrets:
        assert secret.removeprefix("ctx_")[:12] not in written
