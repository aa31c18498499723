"""Engines that crash, hang and run out of memory: the node lives, others do not notice, and the cause is told."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from harness import Daemon, Fleet, alive, until

LIMITS = "[limits]\npoll_seconds = 0.5\npoll_timeout_seconds = 1\nstall_seconds = 10\ndrain_seconds = 5"
CHAT = "/v1/chat/completions"


def model(name: str, **options: Any) -> str:
    declared = {"load_seconds": 0.1, "tokens_per_second": 100, "memory_mb": 10, **options}
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in declared.items())
    return f'[[models]]\nid = "{name}"\nengine = "simulated"\noptions = {{ {written} }}\n'


@contextmanager
def running(directory: Path, models: str, *nodes: str, node_config: str = "") -> Iterator[tuple[Fleet, Daemon]]:
    fleet = Fleet(directory)
    try:
        ports = {node: fleet.neuron(node, config=node_config).port for node in nodes}
        yield fleet, fleet.gateway(models, ports, config=LIMITS)
    finally:
        fleet.close()


def ask(daemon: Daemon, name: str, text: str = "#tokens 3", goes_on: str = "never", **fields: Any) -> httpx2.Response:
    """Ask for a whole answer, or for a stream that is to end in an error where it breaks off."""
    body = {"model": name, "messages": [{"role": "user", "content": text}], **fields}
    headers = {"x-cortex-continue": goes_on}
    return httpx2.post(daemon.url + CHAT, json=body, headers=headers, timeout=60, trust_env=False)


def load(node: Daemon, name: str, **options: Any) -> httpx2.Response:
    declared = {"load_seconds": 0.1, "tokens_per_second": 100, "memory_mb": 10, **options}
    spec = {"model_id": name, "engine": "simulated", "options": declared}
    return httpx2.post(node.url + "/models/load", json=spec, timeout=60, trust_env=False)


def info(node: Daemon, name: str) -> dict[str, Any]:
    (found,) = (each for each in node.get("/models") if each["id"] == name)
    return dict(found)


def deaths(*nodes: Daemon) -> int:
    return sum(len(node.events("engine_died_at_work")) for node in nodes)


def test_a_stream_that_killed_two_engines_in_mid_answer_is_not_begun_again(tmp_path: Path) -> None:
    fault = {"fault": "abort", "fault_after_tokens": 2, "fault_on": "POISON"}
    with running(tmp_path, model("sim", **fault), "a", "b") as (fleet, gateway):
        statuses = []
        for _ in range(3):
            until("a replica is ready", lambda: ask(gateway, "sim", "fine").status_code == 200)
            statuses.append(ask(gateway, "sim", "POISON", stream=True).status_code)

        assert statuses == [200, 200, 500]
        assert deaths(*(fleet.daemons[name] for name in "ab")) == 2


def test_a_stream_that_kills_the_engine_that_goes_on_with_it_too_is_given_up(tmp_path: Path) -> None:
    fault = {"fault": "abort", "fault_after_tokens": 2, "fault_on": "POISON"}
    with running(tmp_path, model("sim", **fault), "a", "b", "c") as (fleet, gateway):
        nodes = [fleet.daemons[name] for name in "abc"]
        for node in nodes:
            load(node, "sim", **fault).raise_for_status()
        until("all three are seen", lambda: len(gateway.get("/v1/models/sim")["locations"]) == 3)
        answer = ask(gateway, "sim", "POISON", goes_on="yes", stream=True)

        error = json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]
        assert error["code"] == "request_kills_engines", error
        assert b"[DONE]" not in answer.content
        assert deaths(*nodes) == 2


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_a_request_that_kills_engines_takes_down_two_and_no_more(tmp_path: Path, stage: str) -> None:
    """Three nodes serve the model, and a client that does not give up could kill them all."""
    fault = {"fault": "abort", "fault_at": stage, "fault_after_tokens": 2, "fault_on": "POISON"}
    with running(tmp_path, model("sim", **fault), "a", "b", "c") as (fleet, gateway):
        nodes = [fleet.daemons[name] for name in "abc"]
        for node in nodes:
            load(node, "sim", **fault).raise_for_status()
        until("all three are seen", lambda: len(gateway.get("/v1/models/sim")["locations"]) == 3)
        refused = ask(gateway, "sim", "this is POISON")

        assert (refused.status_code, refused.headers["x-should-retry"]) == (500, "false")
        assert refused.json()["error"]["code"] == "request_kills_engines"
        assert deaths(*nodes) == 2
        for stream in (False, True):
            again = ask(gateway, "sim", "this is POISON", stream=stream)
            assert (again.status_code, again.json()["error"]["code"]) == (500, "request_kills_engines")
        assert deaths(*nodes) == 2
        assert ask(gateway, "sim", "this is fine").status_code == 200


def test_a_node_by_itself_refuses_it_too(tmp_path: Path) -> None:
    fault = {"fault": "exit", "fault_at": "prefill", "fault_on": "POISON"}
    fleet = Fleet(tmp_path)
    try:
        node = fleet.neuron("a")
        load(node, "sim", **fault).raise_for_status()
        codes = []
        for _ in range(4):
            until("it is ready", lambda: info(node, "sim")["status"] == "ready")
            codes.append(ask(node, "sim", "POISON").json()["error"]["code"])

        assert codes == ["engine_failed", "engine_failed", "request_kills_engines", "request_kills_engines"]
        assert info(node, "sim")["restarts"] == 2
        assert ask(node, "sim", "fine").status_code == 200
    finally:
        fleet.close()


@pytest.mark.parametrize("fault", ["exit", "abort", "kill"])
def test_an_engine_that_dies_fails_its_requests_at_once_and_others_do_not_notice(tmp_path: Path, fault: str) -> None:
    order = {"fault": fault, "fault_after_tokens": 3, "fault_on": "now"}
    with running(tmp_path, model("bad", **order) + model("good"), "a") as (fleet, gateway):
        node = fleet.daemons["a"]
        assert ask(gateway, "good").status_code == ask(gateway, "bad").status_code == 200
        with httpx2.stream(
            "POST",
            gateway.url + CHAT,
            json={"model": "good", "stream": True, "messages": [{"role": "user", "content": "#tokens 200"}]},
            timeout=30,
            trust_env=False,
        ) as undisturbed:
            pid = info(node, "good")["pid"]
            began = time.monotonic()
            broken = ask(gateway, "bad", "fail now", stream=True)
            elapsed = time.monotonic() - began
            whole = undisturbed.read()

        assert elapsed < 2
        error = json.loads(broken.text.rstrip().rpartition("data: ")[2])["error"]
        assert f"simulated fault, as ordered: {fault} in decode" in error["message"]
        assert whole.endswith(b"data: [DONE]\n\n")
        assert info(node, "good")["pid"] == pid
        until("it is restarted", lambda: info(node, "bad")["status"] == "ready")
        assert (info(node, "bad")["restarts"], info(node, "good")["restarts"]) == (1, 0)


@pytest.mark.parametrize("how", ["hang", "stopped"])
def test_an_engine_that_hangs_is_ended_within_its_deadline(tmp_path: Path, how: str) -> None:
    order = {"fault": "hang", "fault_after_tokens": 3, "fault_on": "hang now"}
    heartbeat = "[limits]\nheartbeat_seconds = 2"
    with running(tmp_path, model("bad", **order), "a", node_config=heartbeat) as (fleet, gateway):
        node = fleet.daemons["a"]
        assert ask(gateway, "bad").status_code == 200
        pid = info(node, "bad")["pid"]
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        answer = ask(gateway, "bad", "please hang now" if how == "hang" else "#tokens 3", stream=True)

        assert time.monotonic() - began < 6
        if how == "hang":
            assert "did not answer for" in answer.text
        assert not alive(pid)
        until("it is restarted", lambda: info(node, "bad")["status"] == "ready")
        assert ask(gateway, "bad").status_code == 200


def test_an_answer_that_stalls_is_given_up_within_its_deadline_and_the_engine_goes_on(tmp_path: Path) -> None:
    order = {"fault": "stall", "fault_after_tokens": 3, "fault_on": "stall now"}
    patience = "[limits]\nidle_token_seconds = 1"
    with running(tmp_path, model("bad", **order), "a", node_config=patience) as (fleet, gateway):
        began = time.monotonic()
        answer = ask(gateway, "bad", "please stall now", stream=True)

        assert time.monotonic() - began < 5
        assert "upstream_timeout" in answer.text
        assert ask(gateway, "bad").status_code == 200
        assert info(fleet.daemons["a"], "bad")["restarts"] == 0
        assert info(fleet.daemons["a"], "bad")["in_flight"] == 0


@pytest.mark.parametrize(
    ("fault", "said"), [("memory", "out of memory"), ("kill", "SIGKILL"), ("abort", "SIGABRT"), ("exit", "status 70")]
)
def test_a_load_that_fails_is_told_and_leaves_no_process(tmp_path: Path, fault: str, said: str) -> None:
    fleet = Fleet(tmp_path)
    try:
        node = fleet.neuron("a")
        load(node, "good").raise_for_status()
        refused = load(node, "bad", fault=fault, fault_at="load")

        assert refused.status_code == 503
        assert said in refused.json()["error"]["message"]
        bad = info(node, "bad")
        assert (bad["status"], bad["pid"]) == ("failed", None)
        assert said in bad["error"]
        if fault != "memory":
            assert f"last words: simulated fault, as ordered: {fault} in load" in bad["error"]
        assert ask(node, "bad").json()["error"]["code"] == "model_load_failed"
        assert ask(node, "good").status_code == 200
    finally:
        fleet.close()


def test_a_request_without_memory_for_it_fails_alone(tmp_path: Path) -> None:
    order = {"fault": "memory", "fault_at": "prefill", "fault_on": "too much"}
    with running(tmp_path, model("sim", **order), "a") as (fleet, gateway):
        assert ask(gateway, "sim").status_code == 200
        refused = ask(gateway, "sim", "this is too much")

        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "out_of_memory"
        assert ask(gateway, "sim").status_code == 200
        assert info(fleet.daemons["a"], "sim")["restarts"] == 0


def test_the_gateway_routes_around_a_replica_that_is_being_restarted(tmp_path: Path) -> None:
    """Of two replicas one is killed again and again; every request is answered."""
    with running(tmp_path, model("sim", load_seconds=0.5), "a", "b") as (fleet, gateway):
        for name in "ab":
            load(fleet.daemons[name], "sim", load_seconds=0.5).raise_for_status()
        until("both are seen", lambda: len(gateway.get("/v1/models/sim")["locations"]) == 2)
        statuses = []
        for turn in range(12):
            if turn % 4 == 0 and (pid := info(fleet.daemons["a"], "sim")["pid"]):
                os.kill(pid, signal.SIGKILL)
            statuses.append(ask(gateway, "sim").status_code)

        assert statuses == [200] * 12


@pytest.mark.parametrize("damage", ["truncated", "lying"])
def test_a_damaged_model_file_is_refused_by_name_and_costs_nothing_else(
    tmp_path: Path, demo_gguf: Path, damage: str
) -> None:
    raw = bytearray(demo_gguf.read_bytes())
    if damage == "lying":  # the count of tensors, which the header has after magic and version
        raw[8:16] = (2**40).to_bytes(8, "little")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(raw if damage == "lying" else raw[: len(raw) // 2])
    fleet = Fleet(tmp_path)
    try:
        node = fleet.neuron("a")
        load(node, "good").raise_for_status()
        spec = {"model_id": "broken", "source": str(broken), "context": 512}
        refused = httpx2.post(node.url + "/models/load", json=spec, timeout=60, trust_env=False)

        assert refused.status_code == 503
        assert "broken.gguf" in refused.json()["error"]["message"]
        assert ask(node, "good").status_code == 200
        assert node.events("request_crashed") == node.events("replica_broke") == []
    finally:
        fleet.close()


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of another process are Linux's")
def test_a_load_that_finds_too_little_memory_says_so(tmp_path: Path, demo_gguf: Path) -> None:
    """As under a cgroup's or an operator's limit: the process that will load may map 60 MB more than it has."""
    fleet = Fleet(tmp_path)
    try:
        node = fleet.neuron("a")
        (spare,) = until("a spare", lambda: spares(node))
        until("it is ready", lambda: spare.memory_info().rss > 30 << 20)
        limit = spare.memory_info().vms + (60 << 20)
        spare.rlimit(psutil.RLIMIT_AS, (limit, limit))
        spec = {"model_id": "large", "source": str(demo_gguf), "context": 2048}
        refused = httpx2.post(node.url + "/models/load", json=spec, timeout=60, trust_env=False)

        assert refused.status_code == 503
        assert info(node, "large")["status"] == "failed"
        assert not alive(spare.pid)
        assert httpx2.post(node.url + "/models/load", json=spec, timeout=60, trust_env=False).status_code == 200
        assert ask(node, "large", max_tokens=2).status_code == 200
    finally:
        fleet.close()


def spares(node: Daemon) -> list[psutil.Process]:
    children = psutil.Process(node.process.pid).children()
    return [child for child in children if "spare" in " ".join(child.cmdline())]
