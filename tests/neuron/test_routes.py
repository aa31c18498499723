"""The node API over a neuron that lives for the whole module: what each path answers, and in what shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette

from cortex import __version__
from cortex.neuron.app import Neuron
from cortex.neuron.config import Harness, NeuronConfig, SimulatedDevice
from cortex.neuron.routes import NodeRoutes
from harness import until

FAST = {"engine": "simulated", "options": {"load_seconds": 0, "memory_mb": 1000}}


@dataclass
class Node:
    """A neuron in another thread, and a client without a connection."""

    neuron: Neuron
    portal: BlockingPortal
    client: httpx2.AsyncClient

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        return self.portal.call(lambda: self.client.request(method, path, **more))

    def get(self, path: str) -> Any:
        return self.ask("GET", path).raise_for_status().json()

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.ask("POST", path, json=body)

    def load(self, name: str, **more: Any) -> httpx2.Response:
        return self.post("/models/load", {"model_id": name, **FAST, **more})

    def unload(self, name: str) -> httpx2.Response:
        return self.post("/models/unload", {"model_id": name})

    def model(self, name: str) -> dict[str, Any]:
        (model,) = (each for each in self.get("/models") if each["id"] == name)
        return dict(model)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    devices = [SimulatedDevice("A", 4096), SimulatedDevice("B", 4096)]
    neuron = Neuron(NeuronConfig(simulated_devices=devices, harnesses=[Harness("simulated")]))
    routes = NodeRoutes(neuron)
    application = Starlette(routes=routes.table(), exception_handlers=routes.errors())
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(neuron.lifespan(application)),
    ):
        transport = httpx2.ASGITransport(application)
        yield Node(neuron, portal, httpx2.AsyncClient(transport=transport, base_url="http://node:13131", timeout=20))


@pytest.fixture
def loaded(node: Node) -> Iterator[str]:
    """The name of a model that is loaded."""
    answer = node.load("org/demo").json()
    assert (answer["status"], answer["model_id"]) == ("loaded", "org/demo")
    yield "org/demo"
    node.unload("org/demo")


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    return error


def test_discovery_tells_what_the_node_has(node: Node) -> None:
    found = node.get("/discovery")

    assert found["engines"] == found["harnesses"] == ["simulated"]
    assert found["engine_versions"] == {"simulated": __version__}
    assert found["version"] == __version__
    assert found["boot_id"] == node.neuron.boot_id
    assert [device["kind"] for device in found["devices"]][:2] == ["simulated", "simulated"]
    assert [device["index"] for device in found["devices"]] == list(range(len(found["devices"])))
    assert found["devices"][-1]["kind"] == "cpu"
    for device in found["devices"]:
        assert device.keys() >= {"name", "memory_total_bytes", "vram_total_mb", "driver", "compute_capability", "uuid"}


@pytest.mark.parametrize("path", ["/health", "/"])
def test_health_tells_the_state_and_every_reading(node: Node, loaded: str, path: str) -> None:
    health = node.get(path)

    assert health["status"] == "ready"
    assert health["boot_id"] == node.neuron.boot_id
    assert health["uptime_secs"] > 0
    assert 0 <= health["readings_age_seconds"] < 10
    assert health["activation"] == {
        "state": "ready",
        "pending": [],
        "in_progress": None,
        "completed": [],
        "failed": [],
    }
    assert [model["id"] for model in health["models"]] == [loaded]
    first = health["devices"][0]
    assert first["memory_used_bytes"] == 1000 << 20
    assert (first["vram_used_mb"], first["vram_free_mb"]) == (1000, 3096)
    assert first.keys() >= {"index", "memory_free_bytes", "utilization_pct", "temp_c"}


def test_a_node_that_drains_says_so(node: Node) -> None:
    node.neuron.drain.begun = True
    try:
        assert node.get("/health")["status"] == "draining"
    finally:
        node.neuron.drain.begun = False


def test_a_node_that_drains_loads_nothing_more(node: Node) -> None:
    node.neuron.drain.begun = True
    try:
        refused = node.load("m")
    finally:
        node.neuron.drain.begun = False

    assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
    assert node.get("/models") == []


def test_version_tells_what_runs(node: Node) -> None:
    version = node.get("/version")

    assert version["package_version"] == __version__
    assert version.keys() == {"package_version", "python", "platform", "engines", "unix_seconds", "cache_free_bytes"}
    assert version["unix_seconds"] == pytest.approx(time.time(), abs=60)
    assert version["cache_free_bytes"] > 0


def test_metrics_are_prometheus_text(node: Node, loaded: str) -> None:
    answer = node.ask("GET", "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert f'neuron_replica_ready{{model="{loaded}"}} 1.0' in answer.text
    assert 'neuron_device_memory_used_bytes{device="0"} 1.048576e+09' in answer.text
    assert 'neuron_device_memory_reserved_bytes{device="0"} 0.0' in answer.text
    assert f'neuron_estimate_error_ratio{{basis="measured",model="{loaded}"}} 0.0' in answer.text


def test_models_lists_every_replica(node: Node, loaded: str) -> None:
    model = node.model(loaded)

    assert (model["status"], model["engine"], model["harness"]) == ("ready", "simulated", "simulated")
    assert (model["devices"], model["slots"], model["simulated"]) == ([0], 8, True)
    assert (model["in_flight"], model["queued"], model["error"]) == (0, 0, None)
    assert model["vram_used_mb"] == 1000
    assert set(model["capabilities"]) == {"chat", "completions", "embeddings", "rerank", "tools", "vision"}


def test_models_tells_what_a_replica_holds_and_since_when_nobody_asks_it(node: Node, loaded: str) -> None:
    model = node.model(loaded)

    assert model["bytes_by_device"] == model["peak_by_device"] == model["estimated_by_device"] == {"0": 1000 << 20}
    assert (model["is_reserved"], model["reserved_by_device"], model["requests"]) == (True, {}, 0)
    assert 0 <= model["idle_seconds"] <= model["loaded_seconds_ago"] < 10


def test_a_load_in_progress_tells_what_it_has_reserved_and_on_which_devices(node: Node) -> None:
    slow = {"engine": "simulated", "devices": [1], "options": {"load_seconds": 1000, "memory_mb": 3000}}
    node.post("/models/load?wait=false", {"id": "m", **slow})
    until("it has reserved", lambda: node.model("m")["is_reserved"], 5)
    model, device = node.model("m"), node.get("/health")["devices"][1]
    node.unload("m")

    assert (model["status"], model["devices"]) == ("loading", [1])
    assert (model["reserved_by_device"], model["bytes_by_device"]) == ({"1": 3000 << 20}, {})
    assert (device["memory_reserved_bytes"], device["vram_free_mb"]) == (3000 << 20, 4096)
    assert node.get("/health")["devices"][1]["memory_reserved_bytes"] == 0


def test_unloads_are_counted(node: Node, loaded: str) -> None:
    before = node.get("/health")["cycles"]
    node.unload(loaded)

    assert node.get("/health")["cycles"] == before + 1
    node.load(loaded)


ESTIMATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of a load that fits": (
        {"id": "m", "engine": "simulated", "devices": [1], "options": {"memory_mb": 77}},
        {"devices": [1], "bytes_per_device": {"1": 77 << 20}, "basis": "estimate", "fits": True, "missing": None},
    ),
    "of one that fits on two": (
        {"id": "m", "engine": "simulated", "options": {"memory_mb": 5002}},
        {"bytes_per_device": {"0": 2501 << 20, "1": 2501 << 20}, "fits": True},
    ),
    "of one that the spec knows": (
        {"id": "m", "source": "hf:nobody/nothing", "devices": 1, "vram_mb": 9},
        {"error": "engine 'llamacpp' is not installed here", "fits": False},
    ),
    "of a bad option": (
        {"id": "m", "engine": "simulated", "options": {"slots": 0}},
        {"basis": "unknown", "fits": None, "error": "options.slots = 0: expected more than 0"},
    ),
    "on too many devices": (
        {"id": "m", "engine": "simulated", "devices": 3},
        {"devices": [], "fits": False, "error": "3 devices were asked for; engine 'simulated' can use 2 here"},
    ),
}


@pytest.mark.parametrize(("body", "told"), ESTIMATES.values(), ids=ESTIMATES.keys())
def test_an_estimate_is_answered_without_a_load(node: Node, body: dict[str, Any], told: dict[str, Any]) -> None:
    answer = node.post("/models/estimate", body)

    assert answer.status_code == 200
    assert {key: answer.json()[key] for key in told} == told
    assert answer.json()["model_id"] == "m"
    assert node.get("/models") == []


SPELLINGS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "ours": ({"id": "m", "engine": "simulated", "devices": 2}, [0, 1]),
    "the original's": ({"model_id": "m", "harness": "simulated", "devices": [1], "tensor_parallel": 1}, [1]),
    "tensor_parallel alone": ({"model_id": "m", "harness": "simulated", "tensor_parallel": 2}, [0, 1]),
    "with keys of another version": ({"id": "m", "engine": "simulated", "colour": "blue"}, [0]),
}


@pytest.mark.parametrize(("body", "devices"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_load_is_asked_for_in_either_spelling(node: Node, body: dict[str, Any], devices: list[int]) -> None:
    answer = node.post("/models/load", {"options": FAST["options"], **body})

    assert answer.status_code == 200
    assert [stage["stage"] for stage in answer.json()["stages"]] == ["preparing", "starting the engine"]
    assert sorted(node.model("m")["devices"]) == devices
    assert node.unload("m").json() == {"status": "unloaded", "model_id": "m"}
    assert node.get("/models") == []


def test_a_load_need_not_be_waited_for(node: Node) -> None:
    slow = {"engine": "simulated", "options": {"load_seconds": 0.3}}
    first = node.post("/models/load?wait=false", {"id": "m", **slow})
    again = node.post("/models/load?wait=false", {"id": "m", **slow})

    assert (first.status_code, first.json()) == (202, {"status": "loading", "model_id": "m"})
    assert again.status_code == 202
    assert node.model("m")["status"] == "loading"
    until("it is loaded", lambda: node.model("m")["status"] == "ready", 5)
    assert node.post("/models/load?wait=false", {"id": "m", **slow}).status_code == 200
    node.unload("m")


def test_a_load_that_was_not_waited_for_may_fail_and_says_so_in_the_list(node: Node) -> None:
    node.post("/models/load?wait=false", {"id": "m", "engine": "simulated", "options": {"fail_load": "broken"}})
    until("it has failed", lambda: node.model("m")["status"] == "failed", 5)

    assert node.model("m")["error"] == "broken"
    assert error_of(node.post("/tokenize", {"model": "m", "content": "x"}))["message"] == "m is not loaded: broken"
    assert node.unload("m").status_code == 200
    assert node.get("/models") == []


LOAD_ERRORS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no name": ({}, 400, "", "model_id: is missing"),
    "a name that climbs": ({"model_id": "../m"}, 400, "", "not a model id"),
    "two engines": ({"id": "m", "engine": "simulated", "harness": "llamacpp"}, 400, "", "keep one of the two"),
    "no devices": ({"id": "m", "engine": "simulated", "devices": 0}, 400, "", "at least 1"),
    "no context": ({"id": "m", "engine": "simulated", "context": 0}, 400, "", "at least 1"),
    "a wrong type": ({"id": "m", "context": "4k"}, 400, "invalid_type", "context: "),
    "an unknown engine": ({"id": "org/m", "engine": "vllm"}, 503, "no_feasible_node", "not installed here"),
    "a bad option": (
        {"id": "m", "engine": "simulated", "options": {"slots": 0}},
        503,
        "model_load_failed",
        "options.slots = 0: expected more than 0",
    ),
    "no room": (
        {"id": "m", "engine": "simulated", "devices": 1, "options": {"memory_mb": 5000}},
        503,
        "insufficient_memory",
        "1160 MiB are missing",
    ),
    "no room on all together": (
        {"id": "m", "engine": "simulated", "options": {"memory_mb": 9000}},
        503,
        "insufficient_memory",
        "4500 MiB on simulated: B (device 1), where 3840 MiB can be used: 660 MiB are missing",
    ),
    "no such device": ({"id": "m", "engine": "simulated", "devices": [9]}, 503, "no_feasible_node", "[9]"),
    "a number beyond all measure": (
        {"id": "m", "engine": "simulated", "context": 10**30},
        503,
        "model_load_failed",
        "more than 64 bits",
    ),
}


@pytest.mark.parametrize(("body", "status", "code", "said"), LOAD_ERRORS.values(), ids=LOAD_ERRORS.keys())
def test_a_load_that_cannot_be_is_answered_with_the_reason(
    node: Node, body: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = node.post("/models/load", body)
    error = error_of(answer)

    assert answer.status_code == status
    assert said in error["message"]
    assert (error["code"] or "") == code
    assert error["type"] == ("invalid_request_error" if status == 400 else "server_error")
    assert node.get("/health")["status"] == "ready"


def test_whether_to_try_again_is_in_the_headers(node: Node) -> None:
    full = node.load("m", options={"memory_mb": 9000})
    broken = node.load("m", options={"fail_load": "x"})

    assert full.headers["retry-after"] == "30"
    assert broken.headers["x-should-retry"] == "false"
    node.unload("m")


MALFORMED = {
    "nothing": b"",
    "not json": b"{",
    "a list": b"[]",
    "deep": b'{"options":' + b'{"a":' * 100_000,
    "not utf-8": b'{"model":"\xff","model_id":"\xff"}',
    "half a pair": b'{"model":"\\ud800","model_id":"\\ud800","content":"x"}',
    "another type": b'{"model":1,"model_id":1,"content":"x"}',
    "null": b'{"model":null,"model_id":null,"content":"x"}',
}


@pytest.mark.parametrize("path", ["/models/load", "/models/estimate", "/models/unload", "/tokenize"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_makes_no_sense_is_a_400(node: Node, path: str, body: bytes) -> None:
    answer = node.ask("POST", path, content=body)

    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/models/unload", {"model_id": "nobody"}),
        ("POST", "/models/unload", {"id": "nobody"}),
        ("GET", "/models/nobody/endpoint", None),
        ("GET", "/models/../etc/passwd/endpoint", None),
        ("POST", "/tokenize", {"model": "nobody", "content": "x"}),
    ],
)
def test_a_model_that_is_not_there_is_a_404(node: Node, method: str, path: str, body: Any) -> None:
    answer = node.ask(method, path, json=body)

    assert answer.status_code == 404
    assert error_of(answer)["code"] in ("model_not_found", "not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/models/load", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("DELETE", "/models", 405, "method_not_allowed"),
        ("GET", "/tokenize", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_path_or_method_is_named(node: Node, method: str, path: str, status: int, code: str) -> None:
    answer = node.ask(method, path)

    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert f"{method} {path}" in error_of(answer)["message"]


def test_an_endpoint_is_where_the_caller_reached_the_node(node: Node, loaded: str) -> None:
    assert node.get(f"/models/{loaded}/endpoint") == {"url": "http://node:13131"}
    assert node.ask("GET", f"/models/{loaded}/endpoint", headers={"host": "10.0.0.7:1"}).json() == {
        "url": "http://10.0.0.7:1"
    }


def test_text_and_messages_are_tokenised_by_the_model(node: Node, loaded: str) -> None:
    text = node.post("/tokenize", {"model": loaded, "content": "one two three"}).json()
    chat = node.post("/tokenize", {"model": loaded, "messages": [{"role": "user", "content": "one two three"}]}).json()

    assert text["count"] == len(text["tokens"]) == 3
    assert chat["count"] > text["count"]
    missing = node.post("/tokenize", {"model": loaded})
    assert (missing.status_code, error_of(missing)["param"]) == (400, "content")


def test_a_chat_to_count_is_read_as_one_to_answer(node: Node, loaded: str) -> None:
    chats = [[{"role": role, "content": "be brief"}] for role in ("developer", "system")]
    counts = [node.post("/tokenize", {"model": loaded, "messages": chat}).json()["count"] for chat in chats]
    refused = node.post("/tokenize", {"model": loaded, "messages": [{"role": "user"}]})

    assert counts[0] == counts[1]
    assert (refused.status_code, error_of(refused)["param"]) == (400, "messages[0].content")


def test_a_model_that_is_not_loaded_is_counted_for_by_its_spec(node: Node) -> None:
    messages = [{"role": "user", "content": "one two three"}]
    spec = {"id": "org/cold", "engine": "simulated", "options": {"load_seconds": 1000}}
    counted = node.post("/tokenize", {"model": "org/cold", "messages": messages, "spec": spec}).json()

    assert counted["count"] == len(counted["tokens"]) > 3
    assert "org/cold" not in [model["id"] for model in node.get("/models")]
    assert node.post("/tokenize", {"model": "org/cold", "messages": messages}).status_code == 404


@pytest.mark.parametrize("spec", [5, {}, {"id": "x", "source": "gopher:x"}])
def test_a_spec_to_count_by_that_cannot_be_read_is_refused(node: Node, spec: Any) -> None:
    assert node.post("/tokenize", {"model": "x", "content": "x", "spec": spec}).status_code == 400


def test_while_one_model_loads_the_node_answers(node: Node, loaded: str) -> None:
    node.post("/models/load?wait=false", {"id": "slow", "engine": "simulated", "options": {"load_seconds": 1000}})
    began = time.monotonic()
    until("its progress is told", lambda: (node.model("slow")["progress"] or {}).get("stage") == "load", 5)
    refused = node.post("/tokenize", {"model": "slow", "content": "x"})

    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_not_ready")
    assert refused.headers["retry-after"] == "2"
    assert node.model(loaded)["status"] == "ready"
    assert node.unload("slow").status_code == 200
    assert time.monotonic() - began < 5
