"""The cancellation matrix: whoever leaves, wherever and in whatever stage, leaves the engine as it was.

{queued, loading, prefill, decode} × {stream, whole} × {hang up at the gateway, at the neuron; deadline; shutdown}, for
each engine of `ENGINES`: another joins with one line there.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from harness import Daemon, Fleet, alive, engine_pids, until
from tiny_llama import write_tiny_llama

CHAT = "/v1/chat/completions"
STAGES = ["queued", "loading", "prefill", "decode"]


@dataclass(frozen=True)
class Engine:
    """How a model is declared, what is asked of it, and how long it may take to let go: one step of its work."""

    declared: str
    long_answer: str
    long_prompt: str
    step_seconds: float
    fields: dict[str, Any] = field(default_factory=dict)


ENGINES = {
    "simulated": Engine(
        'engine = "simulated"\noptions = { slots = 1, load_seconds = 2, tokens_per_second = 50, memory_mb = 10, '
        "prefill_tokens_per_second = 200 }",
        "#tokens 2000",
        "word " * 2000,
        0.2,
    ),
    "llamacpp": Engine(
        'source = "{demo}"\ncontext = 4096\noptions = {{ slots = 1 }}',
        "Write a very long story about the sea, the wind and an old ship.",
        "The sea was calm and the old ship lay still in the bay. " * 200,
        4.0,  # a batch of its prefill, on a busy machine
        {"temperature": 0, "max_tokens": 3000},
    ),
    **{
        f"transformers on {ranks}": Engine(
            'source = "{demo}"\nengine = "transformers"\ncontext = 8192\n'
            f"options = {{{{ slots = 1, batch = 16, ranks = {ranks} }}}}",
            "Tell me more.",
            "The sea was calm and the old ship lay still in the bay. " * 70,
            2.0,
            {"temperature": 0, "max_tokens": 4000, "logit_bias": {"0": -100, "2": -100}},  # what would end it
        )
        for ranks in (1, 3)
    },
}
LIMITS = "[limits]\npoll_seconds = 0.5\npoll_timeout_seconds = 2\ndrain_seconds = 1\nqueue_seconds = 10"


class Site:
    """One node and a gateway with one engine's models: `m`, which is loaded, and `cold`, which is not."""

    def __init__(self, directory: Path, engine: Engine, demo: Path, node_limits: str = "") -> None:
        self.engine = engine
        self.fleet = Fleet(directory)
        declared = engine.declared.format(demo=demo) if "{demo}" in engine.declared else engine.declared
        self.models = "".join(f'[[models]]\nid = "{name}"\n{declared}\n' for name in ("m", "cold"))
        self.node_config = f"[limits]\ndrain_seconds = 1\n{node_limits}"
        self.node = self.fleet.neuron("a", config=self.node_config)
        self.gateway = self.fleet.gateway(self.models, {"a": self.node.port}, config=LIMITS)
        self._ids = count(1)
        self._calls: list[Call] = []
        self.reference = {name: self.answer(name) for name in ("cold", "m")}
        self.unload("cold")

    def daemon(self, where: str) -> Daemon:
        return {"gateway": self.gateway, "neuron": self.node}[where]

    def answer(self, model: str = "m") -> str:
        """Return what the model says to a question that is always the same, greedily."""
        body = self.body("How many legs does a spider have?", model, max_tokens=12, temperature=0)
        answer = httpx2.post(self.gateway.url + CHAT, json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def body(self, text: str, model: str = "m", **fields: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": text}], **fields}

    def call(self, stage: str, where: str, *, stream: bool) -> Call:
        """Return a request that is sent and will be long in *stage*; none is like another, from its first word on."""
        number = next(self._ids)
        text = self.engine.long_prompt if stage == "prefill" else self.engine.long_answer
        model = "cold" if stage == "loading" else "m"
        fields = {**self.engine.fields, "stream": stream}
        body = self.body(f"{number}: {text}", model, **fields)
        call = Call(self.daemon(where), f"call-{number}-of-{id(self)}", body)
        self._calls.append(call)
        return call

    def reached(self, stage: str, call: Call, where: str) -> bool:
        """Whether *call* is in *stage* now."""
        match stage:
            case "queued" if where == "gateway":
                return bool(self.gateway.get("/fleet")["waiting"].get("m"))
            case "queued":
                return self.info("m")["queued"] == 1
            case "loading":
                return any(m["id"] == "cold" and m["status"] == "loading" for m in self.node.get("/models"))
            case "prefill":
                return call.id in self.seen("generation_started")
            case _:
                return call.id in self.seen("prefill_done")

    def seen(self, event: str) -> set[str]:
        return {line["request"] for line in self.node.events(event)}

    def info(self, model: str) -> dict[str, Any]:
        return next(m for m in self.node.get("/models") if m["id"] == model)

    def is_idle(self) -> bool:
        model = self.info("m")
        return model["in_flight"] == model["queued"] == 0 and not any(self.gateway.get("/fleet")["waiting"].values())

    def unload(self, model: str) -> None:
        httpx2.post(self.node.url + "/models/unload", json={"model_id": model}, timeout=30, trust_env=False)

    def figures(self) -> dict[str, int]:
        """Return what must not grow: descriptors and threads of each process, and tasks of the node's loop."""
        node, gateway = psutil.Process(self.node.process.pid), psutil.Process(self.gateway.process.pid)
        engine = psutil.Process(self.info("m")["pid"])
        metrics = httpx2.get(self.node.url + "/metrics", timeout=10, trust_env=False).text
        tasks = re.search(r"^neuron_tasks (\d+)", metrics, re.MULTILINE)
        assert tasks is not None
        return {
            "node fds": node.num_fds(),
            "gateway fds": gateway.num_fds(),
            "engine fds": engine.num_fds(),
            "engine threads": engine.num_threads(),
            "node tasks": int(tasks[1]),
        }

    def close(self) -> None:
        for call in self._calls:
            call.close()
        self.fleet.close()


class Call:
    """A request on a socket of its own, whose answer nobody need read."""

    def __init__(self, daemon: Daemon, id_: str, body: dict[str, Any]) -> None:
        self.id, self.body = id_, body
        raw = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nx-request-id: {id_}\r\n"
        self._socket = socket.create_connection(("127.0.0.1", daemon.port))
        self._socket.settimeout(30)
        self._socket.sendall(head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(raw) + raw)

    def read(self) -> bytes:
        """Return the whole answer, head and all."""
        pieces = []
        while piece := self._socket.recv(1 << 16):
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._socket.close()


# Deadlines are the node's own; an engine that takes longer to load than the shortest of them is left out of those.
QUICK = [name for name in ENGINES if not name.startswith("transformers")]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.tp) for name in ENGINES if name not in QUICK)]


def model_for(name: str, directory: Path, demo_gguf: Path) -> Path:
    """Return what the engine *name* loads: a real model, or where each step of a real one takes long a tiny one."""
    return demo_gguf if name in QUICK else write_tiny_llama(directory / "model", heads=6, kv_heads=3, context=8192)


@pytest.fixture(scope="module", params=ALL)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_gguf: Path) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    site = Site(directory, ENGINES[request.param], model_for(request.param, directory, demo_gguf))
    yield site
    site.close()


@pytest.mark.parametrize("where", ["gateway", "neuron"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_hangs_up_frees_its_slot_within_a_step(site: Site, stage: str, stream: bool, where: str) -> None:
    if (stage, where) == ("loading", "neuron"):
        pytest.skip("a node makes nobody wait for a load but who orders it, see below")
    with ExitStack() as others:
        if stage == "queued":
            holder = others.enter_context(closing(site.call("decode", where, stream=stream)))
            until("the slot is taken", lambda: site.reached("decode", holder, where))
        with closing(site.call(stage, where, stream=stream)) as call:
            until(f"it is in {stage}", lambda: site.reached(stage, call, where))
        if stage == "queued":
            until("it queues no more", lambda: not site.reached("queued", call, where), 1)
            assert site.info("m")["in_flight"] == 1
            assert call.id not in site.seen("generation_started")
    left = time.monotonic()
    until("every slot is free", site.is_idle, site.engine.step_seconds + 1)  # what this look itself may take

    assert time.monotonic() - left < site.engine.step_seconds + 1
    assert site.answer() == site.reference["m"]
    if stage == "loading":
        assert site.answer("cold") == site.reference["cold"]
        site.unload("cold")


def test_the_engine_lets_go_within_a_step(site: Site) -> None:
    """By the node's own measure, of all that was aborted above."""
    took = [line["elapsed_seconds"] for line in site.node.events("abort_done")]

    assert len(took) >= 10
    assert max(took) < site.engine.step_seconds
    assert site.node.events("abort_unconfirmed") == []


def test_who_orders_a_load_and_leaves_costs_nothing(site: Site) -> None:
    spec = {**site.body(""), "model_id": "other", "engine": "simulated", "options": {"load_seconds": 1}}
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(site.node.url + "/models/load", json=spec, timeout=0.3, trust_env=False)

    assert httpx2.post(site.node.url + "/models/load", json=spec, timeout=30, trust_env=False).status_code == 200
    site.unload("other")
    assert site.answer() == site.reference["m"]


def test_500_who_leave_at_any_moment_leave_nothing_behind(site: Site) -> None:
    assert site.answer() == site.reference["m"]
    until("it rests", site.is_idle)
    before, dice = site.figures(), random.Random(1)
    plan = [
        (dice.choice(["decode", "decode", "prefill"]), dice.choice(["gateway", "neuron"]), dice.random() < 0.5)
        for _ in range(500)
    ]
    delays = [dice.uniform(0, 0.4) for _ in plan]

    def leave(index: int) -> None:
        stage, where, stream = plan[index]
        with closing(site.call(stage, where, stream=stream)):
            threading.Event().wait(delays[index])

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(leave, range(len(plan))))
    until("every slot is free", site.is_idle, 10)

    assert site.answer() == site.reference["m"]
    until("nothing is left behind", lambda: grown(before, site.figures()) == {}, 10)
    for daemon in (site.node, site.gateway):
        assert daemon.events("request_crashed") == daemon.events("replica_crashed") == []
    metrics = httpx2.get(site.node.url + "/metrics", timeout=10, trust_env=False).text
    saved = re.search(r'^neuron_cancelled_tokens_saved_total\{model="m"\} (\S+)', metrics, re.MULTILINE)
    assert saved is not None
    assert float(saved[1]) > 0


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return what is more than a connection kept alive, or a thread of a pool, explains."""
    return {name: (n, after[name]) for name, n in before.items() if after[name] > n + 6}


@pytest.fixture(scope="module", params=QUICK)
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_gguf: Path) -> Iterator[Site]:
    limits = "first_token_seconds = 3\nidle_token_seconds = 1\nload_seconds = 10"
    site = Site(tmp_path_factory.mktemp(f"hasty-{request.param}"), ENGINES[request.param], demo_gguf, limits)
    yield site
    site.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
def test_a_deadline_ends_a_request_with_an_error_and_frees_its_slot(hasty: Site, stage: str, stream: bool) -> None:
    with ExitStack() as others:
        if stage == "queued":
            holder = others.enter_context(closing(hasty.call("decode", "neuron", stream=True)))
            until("the slot is taken", lambda: hasty.reached("decode", holder, "neuron"))
        call = others.enter_context(closing(hasty.call(stage, "neuron", stream=stream)))
        pid = hasty.info("m")["pid"]
        if stage == "decode":
            until("it decodes", lambda: hasty.reached("decode", call, "neuron"))
            os.kill(pid, signal.SIGSTOP)
        try:
            answer = call.read()
        finally:
            os.kill(pid, signal.SIGCONT)

    assert b"upstream_timeout" in answer
    assert b"[DONE]" not in answer
    until("every slot is free", hasty.is_idle, 5)
    assert hasty.answer() == hasty.reference["m"]
    assert hasty.info("m")["restarts"] == 0


def test_a_load_has_a_deadline_too(hasty: Site) -> None:
    spec = {"model_id": "slow", "engine": "simulated", "options": {"load_seconds": 1000}}
    began = time.monotonic()
    refused = httpx2.post(hasty.node.url + "/models/load", json=spec, timeout=60, trust_env=False)

    assert refused.status_code == 503
    assert "in time" in refused.json()["error"]["message"]
    assert time.monotonic() - began < 30
    assert hasty.answer() == hasty.reference["m"]


@pytest.mark.parametrize("who", ["neuron", "gateway"])
@pytest.mark.parametrize("engine", ALL)
def test_a_shutdown_ends_all_that_is_under_way_in_its_bound(
    tmp_path: Path, demo_gguf: Path, engine: str, who: str
) -> None:
    """One decodes, one waits for its slot, one for a load: each stream and whole, at the gateway and at the node."""
    site = Site(tmp_path, ENGINES[engine], model_for(engine, tmp_path, demo_gguf))
    try:
        decodes = site.call("decode", "neuron", stream=True)
        until("it decodes", lambda: site.reached("decode", decodes, "neuron"))
        rest = [
            site.call(stage, where, stream=stream)
            for stage in ("prefill", "loading")
            for where in ("gateway", "neuron")
            for stream in (True, False)
        ]
        until("it loads", lambda: site.reached("loading", rest[-1], "gateway"))
        engines = engine_pids(site.node)
        daemon = site.daemon(who)
        daemon.process.send_signal(signal.SIGTERM)
        with ThreadPoolExecutor(len(rest)) as pool:
            answers = list(pool.map(Call.read, [c for c in [decodes, *rest] if who == "neuron"]))

        assert daemon.process.wait(15) == 0
        assert not any(b"[DONE]" in answer for answer in answers)
        if who == "neuron":
            assert not any(alive(pid) for pid in engines)
            site.node = site.fleet.neuron("a", port=site.node.port, config=site.node_config)
        else:
            for call in [decodes, *rest]:
                call.close()
            site.gateway = site.fleet.gateway(site.models, {"a": site.node.port}, config=LIMITS)
            until("every slot is free", site.is_idle, 10)
        until("it is there again", lambda: site.gateway.get("/health")["nodes"]["healthy"] == 1)
        assert site.answer() == site.reference["m"]
    finally:
        site.close()
