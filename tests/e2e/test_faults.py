"""Kill things: a fault costs one request or one replica, and what comes after is as it was before."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from harness import Daemon, Fleet, alive, engine_pids, until

SIMULATED = """
[[models]]
id = "sim"
engine = "simulated"
options = { load_seconds = 0.1, tokens_per_second = 50 }
[[models]]
id = "on-b"
engine = "simulated"
nodes = ["b"]
options = { load_seconds = 0.1, tokens_per_second = 50 }
"""


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Count to ten."}], **fields}


def ask(gateway: Daemon, model: str, **fields: Any) -> httpx2.Response:
    url = gateway.url + "/v1/chat/completions"
    return httpx2.post(url, json=body_of(model, **fields), timeout=60, trust_env=False)


class Reader(threading.Thread):
    """A client that streams an answer to its end in the background, and wants to hear of it when that breaks off."""

    def __init__(self, gateway: Daemon, model: str, tokens: int = 200) -> None:
        super().__init__(daemon=True)
        self._url, self._body = gateway.url, body_of(model, stream=True, messages=_tokens(tokens))
        self.body, self.began, self.ended = b"", threading.Event(), 0.0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            url = self._url + "/v1/chat/completions"
            never = {"x-cortex-continue": "never"}
            with httpx2.stream("POST", url, json=self._body, headers=never, timeout=60, trust_env=False) as answer:
                for piece in answer.iter_raw():
                    self.body += piece
                    if self.body.count(b"data:") > 3:
                        self.began.set()
        except httpx2.HTTPError as error:
            self.error = error
        self.ended = time.monotonic()
        self.began.set()

    def finish(self, seconds: float = 20) -> bytes:
        self.join(seconds)
        assert not self.is_alive()
        return self.body


def _tokens(count: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"#tokens {count}"}]


def last_event(body: bytes) -> dict[str, Any]:
    lines = [line for line in body.decode().splitlines() if line.startswith("data: ")]
    value: dict[str, Any] = json.loads(lines[-1][6:])
    return value


@contextmanager
def running(directory: Path, *nodes: str, models: str = SIMULATED) -> Iterator[tuple[Fleet, Daemon]]:
    fleet = Fleet(directory)
    try:
        for node in nodes:
            fleet.neuron(node, config="[limits]\ndrain_seconds = 10")
        ports = {node: fleet.daemons[node].port for node in nodes}
        limits = "[limits]\npoll_seconds = 0.5\npoll_timeout_seconds = 1\nstall_seconds = 3\ndrain_seconds = 10"
        yield fleet, fleet.gateway(models, ports, config=limits)
    finally:
        fleet.close()


def test_a_killed_engine_ends_its_streams_with_an_error_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, "a") as (fleet, gateway):
        assert ask(gateway, "sim", max_tokens=1).status_code == 200
        readers = [Reader(gateway, "sim") for _ in range(4)]
        for reader in readers:
            reader.began.wait(10)
        (pid,) = engine_pids(fleet.daemons["a"])
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()

        for reader in readers:
            body = reader.finish()
            assert reader.error is None
            assert reader.ended - killed < 2
            assert b"[DONE]" not in body
            assert last_event(body)["error"]["code"] == "engine_failed"
            assert b": cortex " not in body
        again = ask(gateway, "sim", max_tokens=2)
        assert again.status_code == 200
        assert fleet.daemons["a"].events("replica_crashed")[0]["error"].endswith("SIGKILL")


def test_a_replica_that_keeps_crashing_is_given_up_with_its_reason(tmp_path: Path) -> None:
    models = '[[models]]\nid = "bad"\nengine = "simulated"\noptions = { load_seconds = 0, crash_after_tokens = 1 }\n'
    with running(tmp_path, "a", models=models) as (fleet, gateway):
        node = fleet.daemons["a"]

        seeds = count()

        def given_up() -> bool:
            ask(gateway, "bad", max_tokens=5, seed=next(seeds))  # never the same, which would be refused by itself
            return bool(node.events("replica_failed"))

        until("the replica is given up", given_up, 60)
        assert "crashed 6 times" in node.events("replica_failed")[0]["error"]
        assert "status 70" in node.events("replica_failed")[0]["error"]
        assert node.answers()


def test_a_killed_node_costs_its_streams_and_the_next_request_goes_elsewhere(tmp_path: Path) -> None:
    with running(tmp_path, "a", "b") as (fleet, gateway):
        for node in ("a", "b"):
            spec = {"model_id": "sim", "engine": "simulated", "options": {"load_seconds": 0.1, "tokens_per_second": 50}}
            httpx2.post(fleet.daemons[node].url + "/models/load", json=spec, trust_env=False).raise_for_status()
        both = [{"node": "a", "status": "loaded"}, {"node": "b", "status": "loaded"}]

        def seen() -> bool:
            locations = gateway.get("/v1/models/sim")["locations"]
            return [{"node": at["node"], "status": at["status"]} for at in locations] == both

        until("both replicas are seen", seen)
        readers = [Reader(gateway, "sim") for _ in range(6)]
        for reader in readers:
            reader.began.wait(10)
        engines = engine_pids(fleet.daemons["a"])
        fleet.daemons["a"].process.kill()
        killed = time.monotonic()

        bodies = [reader.finish() for reader in readers]
        broken = [body for body in bodies if b"[DONE]" not in body]
        assert len(broken) == 3
        for reader, body in zip(readers, bodies, strict=True):
            if body in broken:
                assert reader.ended - killed < 2
                assert last_event(body)["error"]["type"] == "server_error"
        answers = [ask(gateway, "sim", max_tokens=2) for _ in range(3)]
        assert [answer.headers["x-cortex-node"] for answer in answers] == ["b"] * 3
        until("the orphaned engines are gone", lambda: not any(alive(pid) for pid in engines), 5)


def test_a_node_that_is_gone_is_a_reason_to_come_back_and_returns_with_its_models_cold(tmp_path: Path) -> None:
    with running(tmp_path, "a", "b") as (fleet, gateway):
        assert ask(gateway, "on-b", max_tokens=1).status_code == 200
        fleet.daemons["b"].process.kill()
        fleet.daemons["b"].process.wait()
        refused = ask(gateway, "on-b", max_tokens=1)

        assert refused.status_code in (502, 503)
        assert int(refused.headers["retry-after"]) >= 1
        until("the node is taken for dead", lambda: gateway.get("/health")["nodes"]["healthy"] == 1)
        assert ask(gateway, "on-b", max_tokens=1).json()["error"]["code"] == "no_healthy_node"
        fleet.neuron("b", port=fleet.daemons["b"].port)
        until("the node is back", lambda: gateway.get("/health")["nodes"]["healthy"] == 2)
        assert ask(gateway, "on-b", max_tokens=1).status_code == 200


def test_a_stopped_node_is_noticed_and_taken_back_when_it_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "a") as (fleet, gateway):
        assert ask(gateway, "sim", max_tokens=1).status_code == 200
        reader = Reader(gateway, "sim")
        reader.began.wait(10)
        node = psutil.Process(fleet.daemons["a"].process.pid)
        node.suspend()
        try:
            body = reader.finish(10)
            until("the node is taken for dead", lambda: gateway.get("/health")["nodes"]["healthy"] == 0, 20)
        finally:
            node.resume()

        assert last_event(body)["error"]["code"] in ("upstream_timeout", "upstream_connection_error")
        until("the node is taken back", lambda: gateway.get("/health")["nodes"]["healthy"] == 1)
        assert ask(gateway, "sim", max_tokens=1).status_code == 200


def test_a_killed_gateway_leaves_no_generation_behind_and_starts_again_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "a") as (fleet, gateway):
        readers = [Reader(gateway, "sim", tokens=2000) for _ in range(3)]
        for reader in readers:
            reader.began.wait(10)
        gateway.process.kill()
        gateway.process.wait()
        node = fleet.daemons["a"]

        until("the node has aborted them", lambda: node.get("/models")[0]["in_flight"] == 0, 2)
        until("and says so", lambda: len(node.events("generation_finished")) == 3, 2)
        assert {event["reason"] for event in node.events("generation_finished")} == {"aborted"}
        gateway = fleet.gateway(SIMULATED, {"a": node.port})
        assert ask(gateway, "sim", max_tokens=1).status_code == 200
        assert len(node.events("load_started")) == 1


@pytest.mark.parametrize("who", ["gateway", "a"])
def test_a_polite_stop_lets_the_answer_in_progress_end(tmp_path: Path, who: str) -> None:
    with running(tmp_path, "a") as (fleet, gateway):
        reader = Reader(gateway, "sim", tokens=100)
        reader.began.wait(10)
        engines = engine_pids(fleet.daemons["a"])
        fleet.daemons[who].process.send_signal(signal.SIGTERM)

        body = reader.finish()
        assert body.endswith(b"data: [DONE]\n\n")
        assert fleet.daemons[who].process.wait(10) == 0
        if who == "a":
            assert not any(alive(pid) for pid in engines)


def test_a_drain_that_takes_too_long_ends_in_an_error_event(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        node = fleet.neuron("a")
        gateway = fleet.gateway(SIMULATED, {"a": node.port}, config="[limits]\ndrain_seconds = 1")
        reader = Reader(gateway, "sim", tokens=2000)
        reader.began.wait(10)
        gateway.process.send_signal(signal.SIGTERM)

        body = reader.finish()
        assert gateway.process.wait(10) == 0
        assert last_event(body)["error"]["code"] == "shutting_down"
        until("the node has aborted it", lambda: node.get("/models")[0]["in_flight"] == 0, 2)
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Path) -> Iterator[tuple[Fleet, Daemon]]:
    models = f'[[models]]\nid = "smol"\nsource = "{demo_gguf}"\ncontext = 1024\n'
    with running(tmp_path_factory.mktemp("real"), "a", models=models) as started:
        yield started


def test_a_storm_of_resets_is_over_when_it_is_over(tmp_path: Path) -> None:
    with running(tmp_path, "a") as (fleet, gateway):
        node = fleet.daemons["a"]
        assert ask(gateway, "sim", max_tokens=1).status_code == 200
        processes = [psutil.Process(daemon.process.pid) for daemon in (node, gateway)]
        fds = [process.num_fds() for process in processes]
        raw = json.dumps(body_of("sim", stream=True, messages=_tokens(2000))).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw
        for turn in range(25):
            clients = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(200)]
            for client in clients:
                client.sendall(whole if turn % 2 else whole[: len(whole) // 2])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", turn % 3 > 0, 0))
            for client in clients:
                client.close()

        until("every slot is free", lambda: node.get("/models")[0]["in_flight"] == 0, 20)
        # At 50 tokens a second, one request that goes on unseen would hold its slot for forty seconds.
        began = time.monotonic()
        assert all(ask(gateway, "sim", messages=_tokens(5)).status_code == 200 for _ in range(8))
        assert time.monotonic() - began < 20
        until(
            "no descriptor is left", lambda: all(p.num_fds() <= n + 8 for p, n in zip(processes, fds, strict=True)), 20
        )
        assert node.events("request_crashed") == gateway.events("request_crashed") == []


def test_five_loads_and_unloads_give_the_memory_back(real: tuple[Fleet, Daemon]) -> None:
    fleet, gateway = real
    node = fleet.daemons["a"]
    daemon = psutil.Process(node.process.pid)

    def cycle() -> tuple[int, int, int]:
        assert ask(gateway, "smol", max_tokens=2).status_code == 200
        (pid,) = engine_pids(node)
        loaded = psutil.Process(pid).memory_info().rss
        assert loaded > 90 << 20
        httpx2.post(node.url + "/models/unload", json={"model_id": "smol"}, trust_env=False).raise_for_status()
        assert not alive(pid)
        assert node.get("/models") == []
        until("the gateway knows", lambda: not gateway.get("/v1/models/smol")["loaded"], 5)
        until("the next spare waits", lambda: len(daemon.children()) == 1)
        return daemon.memory_info().rss, daemon.num_fds(), daemon.num_threads()

    cycle()
    first = cycle()
    *_, last = (cycle() for _ in range(4))

    assert engine_pids(node) == []
    assert last[0] - first[0] < 4 << 20
    assert last[0] < 80 << 20
    assert last[1] <= first[1] + 2
    assert last[2] <= first[2] + 2
