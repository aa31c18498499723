"""A fleet of real processes with simulated devices: loads, evictions, moves and restarts, as an operator sees them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Daemon, Fleet, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def device(*sizes_mb: int) -> str:
    return "".join(f'[[simulated_devices]]\nname = "gpu{n}"\nmemory_mb = {mb}\n' for n, mb in enumerate(sizes_mb))


def model(name: str, memory_mb: int, extra: str = "", **options: float) -> str:
    declared = {"memory_mb": memory_mb, "load_seconds": 0.2, "tokens_per_second": 400, "slots": 4, **options}
    written = ", ".join(f"{key} = {value}" for key, value in declared.items())
    return f'[[models]]\nid = "{name}"\nengine = "simulated"\n{extra}\noptions = {{ {written} }}\n'


def chat(gateway: Daemon, name: str, tokens: int = 4, *, stream: bool = False) -> httpx2.Response:
    body = {"model": name, "messages": [{"role": "user", "content": f"#tokens {tokens}"}], "stream": stream}
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)


def served(gateway: Daemon, name: str, tokens: int = 4) -> str:
    """Ask, and return the node that answered."""
    answer = chat(gateway, name, tokens)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-cortex-node"])


def ready(gateway: Daemon) -> dict[str, list[str]]:
    """Return the models that are ready, each with its nodes."""
    listed = gateway.get("/v1/models")["data"]
    nodes = {m["id"]: [at["node"] for at in m["locations"] if at["status"] == "loaded"] for m in listed}
    return {name: where for name, where in nodes.items() if where}


def decided(gateway: Daemon, kind: str, name: str = "") -> list[dict[str, Any]]:
    path = f"/fleet/decisions?limit=5000{f'&model={name}' if name else ''}"
    return [entry for entry in gateway.get(path)["data"] if entry["kind"] == kind]


def test_two_models_that_fit_only_singly_take_turns(fleet: Fleet) -> None:
    """Asked for at once, each is answered; the one that is idle makes room, and every decision has its reason."""
    node = fleet.neuron("a", config=device(4096))
    gateway = fleet.gateway(model("one", 3000) + model("two", 3000), {"a": node.port})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: chat(gateway, ("one", "two")[n % 2], 20, stream=n % 3 == 0), range(8)))

    assert [answer.status_code for answer in answers] == [200] * 8
    assert all("[DONE]" in answer.text for answer in answers if "data:" in answer.text)
    (eviction, *_) = decided(gateway, "evicted")
    assert eviction["reason"] == f"makes room for {'two' if eviction['model'] == 'one' else 'one'}"
    assert len(ready(gateway)) == 1


def test_room_is_used_before_anything_is_displaced(fleet: Fleet) -> None:
    a, b = fleet.neuron("a", config=device(4096)), fleet.neuron("b", config=device(8192))
    gateway = fleet.gateway("".join(model(name, 3000) for name in ("one", "two", "three")), {"a": a.port, "b": b.port})
    for name in ("one", "two", "three"):
        served(gateway, name)

    assert sorted(ready(gateway)) == ["one", "three", "two"]
    assert decided(gateway, "evicted") == []


def test_what_is_pinned_stays_and_explain_says_what_stands_in_the_way(fleet: Fleet) -> None:
    node = fleet.neuron("a", config=device(4096))
    gateway = fleet.gateway(model("kept", 3000, "pinned = true") + model("other", 3000), {"a": node.port})
    served(gateway, "kept")
    refused = chat(gateway, "other")
    explained = gateway.get("/fleet/explain/other")

    assert refused.status_code == 503
    assert explained["decision"] == "refuse"
    assert "pinned" in str(explained["candidates"][0]["obstacles"])
    assert sorted(ready(gateway)) == ["kept"]


def test_a_split_needs_room_on_every_device(fleet: Fleet) -> None:
    """Two devices of 4 GB are not one of 8."""
    node = fleet.neuron("a", config=device(4096, 4096))
    catalogue = model("single", 5000, "devices = 1") + model("split", 5000, "devices = 2") + model("auto", 6000)
    gateway = fleet.gateway(catalogue, {"a": node.port})

    assert chat(gateway, "single").status_code == 503
    assert served(gateway, "split") == "a"
    assert served(gateway, "auto") == "a"
    assert [entry["model"] for entry in decided(gateway, "evicted")] == ["split"]


def test_a_burst_opens_another_replica_where_room_is_free_and_its_ttl_closes_it(fleet: Fleet) -> None:
    a, b = fleet.neuron("a", config=device(4096)), fleet.neuron("b", config=device(4096))
    spec = model("busy", 3000, "max_replicas = 2\nttl = 2\nmin_resident = 1", slots=1, tokens_per_second=20)
    gateway = fleet.gateway(spec, {"a": a.port, "b": b.port}, config='[eviction]\nspread_after = "500ms"\n')
    until("the default is resident", lambda: ready(gateway) == {"busy": ["a"]})
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: chat(gateway, "busy", 20), range(10)))

    assert {answer.headers["x-cortex-node"] for answer in answers} == {"a", "b"}
    until("one is unloaded again", lambda: len(ready(gateway).get("busy", [])) == 1)
    assert "ttl" in decided(gateway, "unloaded", "busy")[0]["reason"]


def test_editing_the_catalogue_takes_effect_and_a_broken_edit_is_refused(fleet: Fleet) -> None:
    node = fleet.neuron("a", config=device(4096))
    gateway = fleet.gateway(model("old", 1000), {"a": node.port})
    catalogue = fleet.directory / "models.toml"
    catalogue.write_text(model("old", 1000) + model("new", 1000))
    until("the new model is listed", lambda: "new" in str(gateway.get("/v1/models")))

    assert served(gateway, "new") == "a"

    catalogue.write_text('[[models]]\nid = "new"\nprioritty = 3\n')
    until("the edit is refused", lambda: gateway.events("catalogue_refused"))
    assert "prioritty" in str(gateway.get("/health")["refused_edits"])
    assert served(gateway, "old") == "a"


def test_a_restarted_gateway_takes_over_what_it_finds(fleet: Fleet) -> None:
    node = fleet.neuron("a", config=device(4096))
    catalogue = model("one", 3000)
    gateway = fleet.gateway(catalogue, {"a": node.port})
    served(gateway, "one")
    gateway.process.kill()
    gateway.process.wait()
    again = fleet.gateway(catalogue, {"a": node.port})

    assert served(again, "one") == "a"
    assert decided(again, "load_started") == []


def test_nodes_are_added_drained_and_removed_while_it_runs(fleet: Fleet) -> None:
    a, b = fleet.neuron("a", config=device(4096)), fleet.neuron("b", config=device(4096))
    gateway = fleet.gateway(model("one", 3000), {"a": a.port})
    assert served(gateway, "one") == "a"

    def order(method: str, path: str, body: dict[str, str] | None = None) -> httpx2.Response:
        return httpx2.request(method, f"{gateway.url}/fleet/nodes{path}", json=body or {}, timeout=10, trust_env=False)

    assert order("POST", "", {"name": "b", "endpoint": b.url}).status_code == 201
    assert order("POST", "/a/drain").status_code == 200
    until("its model has moved", lambda: ready(gateway) == {"one": ["b"]})
    assert served(gateway, "one") == "b"
    assert order("POST", "/a/undrain").status_code == 200
    assert order("DELETE", "/a").status_code == 400  # it is in the configuration file
    assert order("DELETE", "/b").status_code == 200
    assert served(gateway, "one") == "a"


def test_a_rolling_restart_of_every_node_loses_no_request(fleet: Fleet) -> None:
    """Requests go on throughout; each node is told to stop, finishes what it has, and comes back."""
    config = {name: device(8192) for name in ("a", "b", "c")}
    nodes = {name: fleet.neuron(name, config=text) for name, text in config.items()}
    catalogue = model("one", 3000, "max_replicas = 2") + model("two", 3000) + model("only-b", 1000, 'nodes = ["b"]')
    gateway = fleet.gateway(catalogue, {name: node.port for name, node in nodes.items()})
    over, failures, done = threading.Event(), [], []

    def client(number: int) -> None:
        while not over.is_set():
            answer = chat(gateway, ("one", "two", "only-b")[number % 3], 30, stream=number % 2 == 0)
            text = answer.text
            whole = "[DONE]" in text if number % 2 == 0 else '"finish_reason"' in text
            (done if answer.status_code == 200 and whole else failures).append(text[-300:])

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(client, number) for number in range(6)]
        until("requests are answered", lambda: len(done) > 12)
        for name, node in nodes.items():
            assert node.stop(signal.SIGTERM) == 0
            time.sleep(0.5)
            fleet.neuron(name, port=node.port, config=config[name])
            until(
                f"{name} is back",
                lambda n=name: next(  # type: ignore[misc]
                    at["healthy"] for at in gateway.get("/fleet")["nodes"] if at["name"] == n
                ),
            )
            seen = len(done)
            until("requests are answered", lambda s=seen: len(done) > s + 12)  # type: ignore[misc]
        over.set()
        for future in running:
            future.result()

    assert failures == []
