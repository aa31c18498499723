"""What Ollama's clients see of a gateway: answers in lines, loads and unloads, lists, refusals in their own shape."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cortex.core.model_spec import ModelSpec
from cortex.gateway.config import KeySettings
from cortex.gateway.dialects import OLLAMA, OLLAMA_CHAT, OLLAMA_EMBED, OLLAMA_EMBEDDINGS, OLLAMA_GENERATE
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key
from cortex.gateway.keys.secret import new_key
from cortex.wire.errors import DONE
from cortex.wire.openai import CHAT, COMPLETION, EMBEDDING
from cortex.wire.sse import data_event, encode_trailer, trailer_event
from fake_fleet import TRAILER, Call, FakeFleet, FakeNode, Gateway, soon, until

pytestmark = pytest.mark.anyio

Value = dict[str, Any]
HI = [{"role": "user", "content": "hi"}]
NDJSON = "application/x-ndjson"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTS = {
    "prompt_eval_count": 7,
    "prompt_eval_duration": 20_000_000,
    "eval_count": 3,
    "eval_duration": 100_000_000,
}
SPENT_NS = 125_000_000  # in the queue, in the prompt, in the answer


def chunk(delta: Value, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return data_event(json.dumps({"id": "c", "model": "m", "choices": [choice], **more}).encode())


WORDS = chunk({"content": "one"}) + chunk({"content": " two"})
END = chunk({}, "stop") + data_event(json.dumps({"choices": [], "usage": USAGE}).encode()) + DONE
TOLD = WORDS + END + trailer_event(TRAILER)


async def answer(call: Call) -> None:
    """Answer as a node does, so that it can be translated."""
    if call.json().get("stream"):
        await call.open_events()
        await call.events(TOLD)
        await call.close_events()
        return
    said: Value = {"text": "one two"} if call.path == COMPLETION else {"message": {"content": "one two"}}
    body: Value = {"choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": USAGE}
    if call.path == EMBEDDING:
        texts = call.json()["input"]
        body = {"data": [{"index": at, "embedding": [at, 0.5]} for at in range(len(texts))], "usage": USAGE}
    await call.respond(200, body, x_cortex_trailer=encode_trailer(TRAILER).decode())


async def node_of(fleet: FakeFleet, name: str = "a", **models: str) -> FakeNode:
    node = await fleet.node(name, **models)
    for path in (CHAT, COMPLETION, EMBEDDING):
        node.script(answer, path)
    return node


async def post(gateway: Gateway, path: str, **fields: Any) -> httpx2.Response:
    return await gateway.post(json.dumps({"model": "m", **fields}).encode(), path)


def lines_of(answer: httpx2.Response) -> list[Value]:
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def text_of(line: Value) -> str:
    text: str = line["message"]["content"] if "message" in line else line["response"]
    return text


def is_error(answer: httpx2.Response, status: int) -> bool:
    """Whether *answer* is a refusal of *status* as Ollama says one."""
    told = answer.json()
    return answer.status_code == status and told.keys() == {"error"} and isinstance(told["error"], str)


ASKED = [(OLLAMA_CHAT, {"messages": HI}), (OLLAMA_GENERATE, {"prompt": "hi"})]
NOTHING: list[tuple[str, Value]] = [
    (OLLAMA_CHAT, {"messages": []}),
    (OLLAMA_CHAT, {}),
    (OLLAMA_GENERATE, {"prompt": ""}),
    (OLLAMA_GENERATE, {}),
    (OLLAMA_EMBED, {"input": []}),
    (OLLAMA_EMBEDDINGS, {"prompt": ""}),
]

# answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "asked"), ASKED)
async def test_an_answer_is_a_stream_of_lines_unless_asked_otherwise(fleet: FakeFleet, path: str, asked: Value) -> None:
    await node_of(fleet)
    answer = await post(await fleet.gateway(), path, **asked)

    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    *pieces, last = lines_of(answer)
    assert "".join(text_of(piece) for piece in pieces) == "one two"
    assert [piece["done"] for piece in pieces] == [False] * len(pieces)
    assert (last["done"], last["done_reason"], last["model"]) == (True, "stop", "m")
    assert last.items() >= COUNTS.items()
    assert last["total_duration"] == last["load_duration"] + SPENT_NS


@pytest.mark.parametrize(("path", "asked"), ASKED)
async def test_a_whole_answer_is_one_object(fleet: FakeFleet, path: str, asked: Value) -> None:
    await node_of(fleet)
    answer = await post(await fleet.gateway(), path, **asked, stream=False)

    told = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert (text_of(told), told["done"], told["done_reason"]) == ("one two", True, "stop")
    assert told.items() >= COUNTS.items()
    assert told["total_duration"] == told["load_duration"] + SPENT_NS


@pytest.mark.parametrize("stream", [True, False])
async def test_a_raw_prompt_is_a_completion_at_the_node(fleet: FakeFleet, stream: bool) -> None:
    node = await node_of(fleet)
    if stream:
        words = b"".join(data_event(b'{"choices":[{"index":0,"text":"%b"}]}' % word) for word in (b"one", b" two"))
        node.script(partial(tell, words + END + trailer_event(TRAILER)), COMPLETION)
    answer = await post(await fleet.gateway(), OLLAMA_GENERATE, prompt="[INST]hi", raw=True, stream=stream)

    assert "".join(text_of(line) for line in lines_of(answer)) == "one two"
    assert node.asked(COMPLETION)[0].json()["prompt"] == "[INST]hi"
    assert node.asked(CHAT) == []


async def tell(events: bytes, call: Call) -> None:
    await call.open_events()
    await call.events(events)
    await call.close_events()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_wait_for_a_load_is_its_duration(fleet: FakeFleet, stream: bool) -> None:
    await node_of(fleet, other="ready")
    gateway = await fleet.gateway(ModelSpec(id="m"))
    cold = lines_of(await post(gateway, OLLAMA_CHAT, messages=HI, stream=stream))[-1]
    warm = lines_of(await post(gateway, OLLAMA_CHAT, messages=HI, stream=stream))[-1]

    assert cold["load_duration"] > warm["load_duration"] >= 0
    assert cold["total_duration"] == cold["load_duration"] + SPENT_NS


async def test_tags_that_clients_append_are_taken_off_and_names_come_back_as_they_were(fleet: FakeFleet) -> None:
    node = await node_of(fleet)
    gateway = await fleet.gateway(ModelSpec(id="m", aliases=("short",)))
    answer = await post(gateway, OLLAMA_CHAT, messages=HI, model="short:latest", stream=False)

    assert answer.json()["model"] == "short:latest"
    assert dict(node.asked()[0].headers)["x-cortex-model"] == "m"


async def test_what_is_ignored_is_named(fleet: FakeFleet) -> None:
    await node_of(fleet)
    answer = await post(await fleet.gateway(), OLLAMA_CHAT, messages=HI, keep_alive="5m", options={"num_ctx": 9})

    assert answer.headers["x-cortex-ignored"] == "keep_alive, options.num_ctx"


@pytest.mark.parametrize(("think", "effort"), [(True, "medium"), (False, "none"), ("low", "low"), (None, None)])
async def test_whether_a_model_thinks_is_the_client_s_choice(fleet: FakeFleet, think: Any, effort: str | None) -> None:
    node = await node_of(fleet)
    await post(await fleet.gateway(), OLLAMA_CHAT, messages=HI, think=think)

    assert node.asked()[0].json().get("reasoning_effort") == effort


# streams that take their time, and break ------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silences are broken at once."""
    monkeypatch.setattr("cortex.gateway.inference.PATIENCE_SECONDS", 0.01)


@pytest.mark.parametrize(("path", "asked"), ASKED)
async def test_a_silence_is_filled_with_pieces_that_say_nothing(
    fleet: FakeFleet, impatient: None, path: str, asked: Value
) -> None:
    """While a model is loaded, clients that count the seconds since the last byte see that it goes on."""
    node = await node_of(fleet, other="ready")

    async def hold(_: Call) -> None:
        pass

    node.script(hold, "/models/load")
    gateway = await fleet.gateway(ModelSpec(id="m"))
    async with gateway.stream(json.dumps({"model": "m", **asked}).encode(), path) as answer:
        lines = answer.aiter_lines()
        first = json.loads(await soon(anext(lines)))
        await node.load(await node.call("/models/load"))
        rest = [json.loads(line) async for line in lines]

    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    assert (text_of(first), first["done"]) == ("", False)
    assert "".join(text_of(line) for line in rest) == "one two"
    assert rest[-1]["done"] is True


@pytest.mark.parametrize("how", ["breaks", "tells"])
async def test_a_failure_in_mid_stream_is_a_line_and_nothing_is_done(fleet: FakeFleet, how: str) -> None:
    node = await node_of(fleet)
    error = data_event(b'{"error":{"message":"out of luck","type":"server_error","code":null,"param":null}}')

    async def fail(call: Call) -> None:
        await call.open_events()
        await call.events(WORDS + (error if how == "tells" else b""))
        call.hang_up()

    node.script(fail)
    answer = await post(await fleet.gateway(), OLLAMA_CHAT, messages=HI)

    *pieces, last = lines_of(answer)
    assert answer.status_code == 200
    assert "".join(text_of(piece) for piece in pieces) == "one two"
    assert last.keys() == {"error"}
    assert not any(piece["done"] for piece in pieces)


async def test_a_load_that_fails_after_the_first_line_is_a_line(fleet: FakeFleet, impatient: None) -> None:
    node = await node_of(fleet, other="ready")
    held: list[Call] = []

    async def hold(call: Call) -> None:
        held.append(call)

    node.script(hold, "/models/load")
    gateway = await fleet.gateway(ModelSpec(id="m"))
    async with gateway.stream(json.dumps({"model": "m", "messages": HI}).encode(), OLLAMA_CHAT) as answer:
        lines = answer.aiter_lines()
        await soon(anext(lines))
        await held[0].refuse(500, "load_failed", "the file is damaged")
        *_, last = [json.loads(line) async for line in lines]

    assert last.keys() == {"error"}
    assert "the file is damaged" in last["error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_work_at_the_node(fleet: FakeFleet, stream: bool) -> None:
    node = await node_of(fleet)

    async def begin(call: Call) -> None:
        if stream:
            await call.open_events()
            await call.events(WORDS)
        await call.caller_left()
        call.hang_up()

    node.script(begin)
    gateway = await fleet.gateway()
    body = json.dumps({"model": "m", "messages": HI, "stream": stream}).encode()
    if stream:
        async with gateway.stream(body, OLLAMA_CHAT) as answer:
            assert text_of(json.loads(await soon(anext(answer.aiter_lines())))) == "one"
    else:
        writer = await bare(gateway, OLLAMA_CHAT, body)
        await node.call()
        writer.transport.abort()
    await gateway.idle()

    assert fleet.events("request_finished")[-1]["status"] == 499
    assert gateway.cortex.steward.reconciler.situation(0.0).flights == {}


async def bare(gateway: Gateway, path: str, body: bytes) -> asyncio.StreamWriter:
    """Send a request and return the writer that ends its connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
    )
    return writer


# vectors --------------------------------------------------------------------------------------------------------------


async def test_texts_are_embedded(fleet: FakeFleet) -> None:
    node = await node_of(fleet)
    answer = await post(await fleet.gateway(), OLLAMA_EMBED, input=["a", "b"], dimensions=2)

    told = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert told["embeddings"] == [[0.0, 0.5], [1.0, 0.5]]
    assert told["prompt_eval_count"] == 7
    assert told["total_duration"] == told["load_duration"] + SPENT_NS
    assert node.asked(EMBEDDING)[0].json() == {"model": "m", "input": ["a", "b"], "dimensions": 2}


async def test_the_older_endpoint_embeds_one_text(fleet: FakeFleet) -> None:
    await node_of(fleet)
    answer = await post(await fleet.gateway(), OLLAMA_EMBEDDINGS, prompt="a")

    assert answer.json() == {"embedding": [0.0, 0.5]}


async def test_vectors_that_are_none_are_the_node_s_fault(fleet: FakeFleet) -> None:
    node = await node_of(fleet)
    node.script(lambda call: call.respond(200, {}), EMBEDDING)

    assert is_error(await post(await fleet.gateway(), OLLAMA_EMBED, input="a"), 502)


# loads and unloads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "nothing"), NOTHING)
async def test_a_request_of_nothing_loads_the_model(fleet: FakeFleet, path: str, nothing: Value) -> None:
    node = await node_of(fleet, other="ready")
    gateway = await fleet.gateway(ModelSpec(id="m"))
    answer = await post(gateway, path, **nothing)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    if path in (OLLAMA_CHAT, OLLAMA_GENERATE):
        assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")
    assert "m" in node.models
    assert [call.path for call in node.calls if call.path in (CHAT, COMPLETION, EMBEDDING)] == []
    assert gateway.cortex.steward.reconciler.situation(0.0).flights == {}


@pytest.mark.parametrize(("path", "nothing"), NOTHING)
async def test_a_client_that_is_done_with_a_model_has_it_unloaded(fleet: FakeFleet, path: str, nothing: Value) -> None:
    node = await node_of(fleet)
    answer = await post(await fleet.gateway(), path, **nothing, keep_alive=0)
    await until(lambda: "m" not in node.models)

    assert answer.status_code == 200
    if path in (OLLAMA_CHAT, OLLAMA_GENERATE):
        assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "unload")


@pytest.mark.parametrize(
    ("path", "asked"), [*ASKED, (OLLAMA_CHAT, {"messages": HI, "stream": False}), (OLLAMA_EMBED, {"input": "a"})]
)
async def test_a_model_that_is_kept_for_no_time_goes_after_its_answer(
    fleet: FakeFleet, path: str, asked: Value
) -> None:
    node = await node_of(fleet)
    answer = await post(await fleet.gateway(), path, **asked, keep_alive="0s")
    await until(lambda: "m" not in node.models)

    assert answer.status_code == 200
    assert "x-cortex-ignored" not in answer.headers


@pytest.mark.parametrize("guard", [{"pinned": True}, {"min_resident": 1}])
async def test_what_the_operator_keeps_is_not_unloaded_by_clients(fleet: FakeFleet, guard: Value) -> None:
    node = await node_of(fleet)
    gateway = await fleet.gateway(ModelSpec(id="m", **guard))
    answer = await post(gateway, OLLAMA_GENERATE, keep_alive=0)
    await post(gateway, OLLAMA_CHAT, messages=HI)

    assert answer.status_code == 200
    assert node.asked("/models/unload") == []


async def test_what_others_use_is_not_unloaded(fleet: FakeFleet) -> None:
    node = await node_of(fleet)
    held: list[Call] = []

    async def hold(call: Call) -> None:
        held.append(call)

    node.script(hold)
    gateway = await fleet.gateway()
    writer = await bare(gateway, OLLAMA_CHAT, json.dumps({"model": "m", "messages": HI}).encode())
    await until(lambda: held)
    answer = await post(gateway, OLLAMA_GENERATE, keep_alive=0)
    writer.transport.abort()
    await gateway.idle()

    assert answer.json()["done_reason"] == "unload"
    assert node.asked("/models/unload") == []


async def test_what_is_not_there_cannot_be_let_go_of(fleet: FakeFleet) -> None:
    await node_of(fleet)

    assert is_error(await post(await fleet.gateway(), OLLAMA_GENERATE, model="nope", keep_alive=0), 404)


ALL_WRONG = b'{"model": "m", "input": 3, "messages": 3, "prompt": 3}'

# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OLLAMA)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"messages": 3}', b'{"model": ""}', ALL_WRONG],
)
async def test_what_is_wrong_is_refused(fleet: FakeFleet, path: str, body: bytes) -> None:
    await node_of(fleet)

    assert is_error(await (await fleet.gateway()).post(body, path), 400)


@pytest.mark.parametrize("path", [*OLLAMA, "/api/show"])
async def test_a_model_that_nobody_knows_is_not_found(fleet: FakeFleet, path: str) -> None:
    """Clients that read 404 pull the model, where they could."""
    await node_of(fleet)
    answer = await post(await fleet.gateway(), path, model="nope", messages=HI, prompt="hi", input="hi")

    assert is_error(answer, 404)


async def test_a_full_queue_says_when_to_come_back(fleet: FakeFleet) -> None:
    node = await node_of(fleet)
    node.script(lambda call: call.refuse(429, "overloaded", retry_after="3"))
    answer = await post(await fleet.gateway(), OLLAMA_CHAT, messages=HI)

    assert is_error(answer, 429)
    assert answer.headers["retry-after"] == "3"


async def test_a_fleet_that_is_not_there_is_unavailable(fleet: FakeFleet) -> None:
    node = await node_of(fleet, other="ready")
    await node.stop()

    assert is_error(await post(await fleet.gateway(ModelSpec(id="m")), OLLAMA_CHAT, messages=HI), 503)


@pytest.mark.parametrize("path", ["/api/web_search", "/api/"])
async def test_what_is_not_offered_is_not_found(fleet: FakeFleet, path: str) -> None:
    assert is_error(await (await fleet.gateway()).post(b"{}", path), 404)


@pytest.mark.parametrize("path", [*OLLAMA, "/api/show"])
async def test_another_method_is_refused(fleet: FakeFleet, path: str) -> None:
    assert is_error(await (await fleet.gateway()).get(path), 405)


# what a body is declared as -------------------------------------------------------------------------------------------

FORM = "application/x-www-form-urlencoded"  # what curl says of `-d`, as in Ollama's own documentation


@pytest.mark.parametrize("declared", [FORM, "text/plain", "application/json; charset=utf-8", "", None])
async def test_a_body_is_json_whatever_it_is_declared_as(fleet: FakeFleet, declared: str | None) -> None:
    await node_of(fleet)
    gateway = await fleet.gateway()
    headers = {} if declared is None else {"content-type": declared}
    bodies: dict[str, Value] = {
        OLLAMA_CHAT: {"messages": HI},
        OLLAMA_GENERATE: {"prompt": "hi"},
        OLLAMA_EMBED: {"input": "hi"},
        OLLAMA_EMBEDDINGS: {"prompt": "hi"},
        "/api/show": {},
    }
    async with httpx2.AsyncClient(trust_env=False) as client:
        for path, asked in bodies.items():
            content = json.dumps({"model": "m", **asked}).encode()
            answer = await soon(client.post(gateway.url + path, content=content, headers=headers))

            assert answer.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
@pytest.mark.parametrize("path", [*OLLAMA, "/api/show"])
async def test_pages_of_other_sites_are_refused_whatever_they_declare(fleet: FakeFleet, path: str, origin: str) -> None:
    """A browser sends forms and plain text across sites without asking, but never without their origin."""
    node = await node_of(fleet)
    body = json.dumps({"model": "m", "keep_alive": 0}).encode()
    answer = await (await fleet.gateway()).post(body, path, content_type=FORM, origin=origin)

    assert is_error(answer, 403)
    assert "m" in node.models


async def test_other_dialects_want_json_declared(fleet: FakeFleet) -> None:
    await node_of(fleet)
    answer = await (await fleet.gateway()).post(json.dumps({"model": "m", "messages": HI}).encode(), content_type=FORM)

    assert answer.status_code == 415


# lists ----------------------------------------------------------------------------------------------------------------


async def test_models_are_listed_loaded_or_not(fleet: FakeFleet) -> None:
    await node_of(fleet)
    gateway = await fleet.gateway(ModelSpec(id="m"), ModelSpec(id="org/cold:q4"))
    tags, running = await gateway.get("/api/tags"), await gateway.get("/api/ps")

    assert [model["name"] for model in tags.json()["models"]] == ["m:latest", "org/cold:q4"]
    assert [model["name"] for model in running.json()["models"]] == ["m:latest"]


@pytest.mark.parametrize("asked", [{"model": "m"}, {"model": "short"}, {"model": "short:latest"}, {"name": "m"}])
async def test_a_model_is_shown_by_any_of_its_names(fleet: FakeFleet, asked: Value) -> None:
    await node_of(fleet)
    gateway = await fleet.gateway(ModelSpec(id="m", aliases=("short",)))
    answer = await gateway.post(json.dumps(asked).encode(), "/api/show")

    assert answer.status_code == 200
    assert answer.json()["model_info"]["general.basename"] == "m"
    assert answer.json()["capabilities"]


async def test_a_model_that_is_shown_has_a_name(fleet: FakeFleet) -> None:
    assert is_error(await (await fleet.gateway()).post(b"{}", "/api/show"), 400)


async def test_a_model_that_is_served_is_pulled_at_once(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway(ModelSpec(id="m"))
    told = await post(gateway, "/api/pull", model="m:latest")
    whole = await post(gateway, "/api/pull", model="", name="m", stream=False)

    assert (told.status_code, told.headers["content-type"]) == (200, NDJSON)
    assert lines_of(told) == [{"status": "pulling manifest"}, {"status": "success"}]
    assert whole.json() == {"status": "success"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_is_not_served_is_not_pulled(fleet: FakeFleet, stream: bool) -> None:
    answer = await post(await fleet.gateway(), "/api/pull", model="llama9", stream=stream)

    assert is_error(answer, 404)
    assert answer.json()["error"].startswith("pull model manifest: file does not exist: 'llama9'")


@pytest.mark.parametrize("path", ["/api/create", "/api/copy", "/api/delete", "/api/push", "/api/blobs/sha256:0"])
async def test_what_would_change_the_catalogue_is_refused_by_name(fleet: FakeFleet, path: str) -> None:
    answer = await post(await fleet.gateway(), path)

    assert is_error(answer, 400)
    assert answer.json()["error"].startswith(f"{path} is not offered")


async def test_a_name_in_ollama_s_way_is_known_to_other_dialects(fleet: FakeFleet) -> None:
    await node_of(fleet, m="ready")
    gateway = await fleet.gateway()

    answer = await gateway.post(json.dumps({"model": "m:latest", "messages": HI}).encode(), CHAT)

    assert answer.status_code == 200


async def test_the_version_is_that_of_the_api(fleet: FakeFleet) -> None:
    answer = await (await fleet.gateway()).get("/api/version")

    assert [int(part) for part in answer.json()["version"].split(".")] >= [0, 12, 0]


# keys -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def key(file: Path, name: str, **limits: Any) -> str:
    """Add a key to *file* and return how it is shown."""
    secret = new_key()
    add_key(file, KeyEntry(name=name, sha256=secret.digest.hex(), **limits))
    return f"Bearer {secret.reveal()}"


async def test_lists_have_what_the_key_is_for(fleet: FakeFleet, key_file: Path) -> None:
    await node_of(fleet, m="ready", secret="ready")
    ada = key(key_file, "ada", models=("m",))
    gateway = await fleet.gateway(ModelSpec(id="m"), ModelSpec(id="secret"), keys=KeySettings(file=str(key_file)))
    lists = [await gateway.get(path, authorization=ada) for path in ("/api/tags", "/api/ps")]
    shown = await gateway.post(b'{"model": "secret"}', "/api/show", authorization=ada)

    assert [[model["name"] for model in each.json()["models"]] for each in lists] == [["m:latest"]] * 2
    assert is_error(shown, 403)


@pytest.mark.parametrize("asked", [{"messages": HI}, {}, {"keep_alive": 0}])
async def test_a_model_that_a_key_is_not_for_is_neither_asked_nor_loaded_nor_unloaded(
    fleet: FakeFleet, key_file: Path, asked: Value
) -> None:
    node = await node_of(fleet, m="ready", secret="ready")
    ada = key(key_file, "ada", models=("m",))
    gateway = await fleet.gateway(keys=KeySettings(file=str(key_file)))
    body = json.dumps({"model": "secret", **asked}).encode()

    assert is_error(await gateway.post(body, OLLAMA_CHAT, authorization=ada), 403)
    assert "secret" in node.models


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/version"])
async def test_lists_are_not_for_strangers(fleet: FakeFleet, key_file: Path, path: str) -> None:
    key(key_file, "ada")
    gateway = await fleet.gateway(keys=KeySettings(file=str(key_file)))

    assert is_error(await gateway.get(path), 401)


@pytest.mark.parametrize("path", [*OLLAMA, "/api/show"])
async def test_models_are_not_for_strangers(fleet: FakeFleet, key_file: Path, path: str) -> None:
    node = await node_of(fleet)
    key(key_file, "ada")
    gateway = await fleet.gateway(keys=KeySettings(file=str(key_file)))

    assert is_error(await post(gateway, path, messages=HI, keep_alive=0), 401)
    assert "m" in node.models
