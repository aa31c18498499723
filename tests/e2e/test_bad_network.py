"""A bad network between gateway and node: slow, sliced, cut, silent, garbled. The client always hears the truth."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness import Daemon, Fleet, free_port, until

PROXY = Path(__file__).resolve().parents[3] / "shared" / "clients" / "toxic.py"
MODELS = """
[[models]]
id = "sim"
engine = "simulated"
options = { load_seconds = 0.1, tokens_per_second = 200 }
"""

pytestmark = pytest.mark.skipif(not PROXY.exists(), reason="the fault proxy is not beside this checkout")


class Network:
    """The proxy between gateway and node; `set` changes what it does to both directions."""

    def __init__(self, node: Daemon) -> None:
        self.port, self._control = free_port(), free_port()
        command = [sys.executable, str(PROXY), str(self.port), str(node.port), str(self._control)]
        self.process = subprocess.Popen(command)
        until("the proxy listens", self._listens, 10)

    def _listens(self) -> bool:
        try:
            self.say("clear")
        except OSError:
            return False
        return True

    def say(self, line: str) -> None:
        with socket.create_connection(("127.0.0.1", self._control), timeout=2) as control:
            control.sendall(line.encode() + b"\n")
            control.recv(65536)


@pytest.fixture(scope="module")
def network(fleet: Fleet) -> Iterator[Network]:
    network = Network(fleet.neuron("a"))
    yield network
    network.process.kill()
    network.process.wait()


@pytest.fixture
def gateway(fleet: Fleet, network: Network) -> Iterator[Daemon]:
    network.say("clear")
    if "gateway" not in fleet.daemons:
        limits = "[limits]\npoll_seconds = 1\npoll_timeout_seconds = 2\nstall_seconds = 2"
        fleet.gateway(MODELS, {"a": network.port}, config=limits)
    gateway = fleet.daemons["gateway"]
    yield gateway
    network.say("clear")
    network.say("kill")
    until("the node is taken back", lambda: gateway.get("/health")["nodes"]["healthy"] == 1, 20)
    assert ask(gateway, stream=False).status_code == 200
    assert gateway.events("request_crashed") == []


def ask(gateway: Daemon, tokens: int = 20, **fields: Any) -> httpx2.Response:
    body = {"model": "sim", "messages": [{"role": "user", "content": f"#tokens {tokens}"}], "stream": True, **fields}
    return httpx2.post(gateway.url + "/v1/chat/completions", json=body, timeout=30, trust_env=False)


def text_of(answer: httpx2.Response) -> str:
    """Return the text of a streamed answer, with its end."""
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events if event != "[DONE]"]
    return "".join(delta.get("content") or "" for delta in deltas) + events[-1]


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """Return the error that ends a stream, or that is the whole answer."""
    if answer.status_code != 200:
        whole: dict[str, Any] = answer.json()["error"]
        return whole
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert "[DONE]" not in events
    last: dict[str, Any] = json.loads(events[-1])["error"]
    return last


@pytest.mark.parametrize("toxic", ["slice=3 delay=0", "latency=50 jitter=20", "rate=64"])
def test_a_slow_network_changes_nothing_but_the_time(gateway: Daemon, network: Network, toxic: str) -> None:
    clean = text_of(ask(gateway))
    network.say(f"set down {toxic}")

    assert text_of(ask(gateway)) == clean
    assert clean.endswith("[DONE]")


@pytest.mark.parametrize("toxic", ["limit=3000", "reset=3000", "stall=3000"])
def test_an_answer_that_is_cut_ends_in_an_error(gateway: Daemon, network: Network, toxic: str) -> None:
    ask(gateway, tokens=1)
    network.say("kill")
    network.say(f"set down {toxic}")
    answer = ask(gateway, tokens=100)

    assert error_of(answer)["code"] in ("upstream_connection_error", "upstream_timeout")


def test_a_refusing_network_is_a_status_with_a_time_to_come_back(gateway: Daemon, network: Network) -> None:
    ask(gateway, tokens=1)
    network.say("kill")
    network.say("set both refuse=1")
    answer = ask(gateway, stream=False)

    assert answer.status_code in (502, 503)
    assert int(answer.headers["retry-after"]) >= 1


def test_flipped_bits_break_at_most_what_they_touch(gateway: Daemon, network: Network) -> None:
    ask(gateway, tokens=1)
    network.say("set down corrupt=0.2")
    answers = [ask(gateway, tokens=50) for _ in range(10)]

    assert all(answer.status_code in (200, 400, 404, 429, 500, 502, 503, 504) for answer in answers)
