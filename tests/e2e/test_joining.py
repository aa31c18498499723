"""Nodes that join by a token, between real processes: who is let in, who is not, and what `remove` ends."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cortex.gateway.joining.authority import Authority
from cortex.neuron.identity import kept_identity
from cortex.wire.joining import parse_token, shown
from harness import Daemon, Fleet, alive, engine_pids, free_port, until

MODELS = """
[[models]]
id = "sim"
engine = "simulated"
options = { load_seconds = 0, tokens_per_second = 100 }
"""
HELLO = [{"role": "user", "content": "hi"}]


class Stage:
    """A gateway without a node in its file, and what operators type."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.gateway = fleet.gateway(MODELS, {}, config=LIMITS)

    def restart(self) -> None:
        assert self.gateway.stop() == 0
        self.gateway = self.fleet.gateway(MODELS, {}, config=LIMITS)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def invite(self, *arguments: str) -> str:
        done = self.run("cortex", "node", "invite", *arguments, "--json", "-e", self.gateway.url)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["token"])

    def join(self, name: str, token: str, port: int) -> subprocess.CompletedProcess[str]:
        file = self.fleet.directory / f"{name}.toml"
        file.write_text(f'port = {port}\nstate = "{name}-state"\n')
        return self.run("neuron", "join", self.gateway.url, "--token", token, "--name", name, "-c", str(file))

    def joined(self, name: str) -> Daemon:
        port = free_port()
        done = self.join(name, self.invite(name), port)
        assert done.returncode == 0, done.stderr
        return self.fleet.neuron(name, port=port, has_joined=True)

    def remove(self, name: str) -> None:
        done = self.run("cortex", "node", "remove", name, "-e", self.gateway.url)
        assert done.returncode == 0, done.stderr

    def nodes(self) -> dict[str, Any]:
        return {node["name"]: node for node in self.gateway.get("/fleet")["nodes"]}

    def until_healthy(self, name: str) -> None:
        until(f"{name} is healthy", lambda: self.nodes().get(name, {}).get("healthy"))

    def chat(self, **more: Any) -> httpx2.Response:
        body = {"model": "sim", "messages": HELLO, "max_tokens": 8, **more}
        return httpx2.post(self.gateway.url + "/v1/chat/completions", json=body, timeout=60, trust_env=False)


LIMITS = "[limits]\npoll_seconds = 0.2\nmisses = 1\n"


@pytest.fixture(scope="module")
def stage(fleet: Fleet) -> Stage:
    return Stage(fleet)


@pytest.fixture(scope="module")
def attic(stage: Stage) -> Daemon:
    neuron = stage.joined("attic")
    stage.until_healthy("attic")
    return neuron


def state_of(stage: Stage, neuron: Daemon) -> Path:
    return stage.fleet.directory / f"{neuron.name}-state"


def answer_to(port: int, context: ssl.SSLContext) -> httpx2.Response:
    return httpx2.get(f"https://127.0.0.1:{port}/health", verify=context, timeout=10, trust_env=False)


def trusting_anybody(identity: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        context.load_cert_chain(identity)
    return context


def test_a_node_that_was_invited_serves_by_tls_without_any_file_being_edited(stage: Stage, attic: Daemon) -> None:
    whole = stage.chat()
    stream = stage.chat(stream=True)

    assert stage.nodes()["attic"]["endpoint"] == f"https://127.0.0.1:{attic.port}"
    assert (whole.status_code, whole.json()["choices"][0]["finish_reason"]) == (200, "length")
    assert stream.text.rstrip().endswith("data: [DONE]")


def test_a_client_that_leaves_frees_its_slot_through_tls(stage: Stage, attic: Daemon) -> None:
    body = {"model": "sim", "messages": HELLO, "max_tokens": 100_000, "stream": True}
    with httpx2.stream(
        "POST", stage.gateway.url + "/v1/chat/completions", json=body, timeout=60, trust_env=False
    ) as answer:
        next(answer.iter_bytes())

    until("the node hears of it", lambda: attic.events("generation_aborted") or _cancelled(attic), 10)


def _cancelled(neuron: Daemon) -> bool:
    ended = neuron.events("generation_finished")
    return any(event["reason"] not in ("stop", "length") for event in ended)


def test_plain_http_is_refused_by_a_node_that_has_joined(attic: Daemon) -> None:
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(attic.url + "/health", timeout=10, trust_env=False)


def test_whoever_shows_no_certificate_is_refused(attic: Daemon) -> None:
    with pytest.raises(httpx2.HTTPError):
        answer_to(attic.port, trusting_anybody(None))


def test_a_stranger_with_a_certificate_of_another_authority_is_refused(attic: Daemon, tmp_path: Path) -> None:
    Authority(tmp_path).establish(datetime.now(UTC))

    with pytest.raises(httpx2.HTTPError):
        answer_to(attic.port, trusting_anybody(tmp_path / "gateway.pem"))


def test_another_node_of_the_fleet_is_no_client(stage: Stage, attic: Daemon) -> None:
    assert stage.join("cellar", stage.invite(), free_port()).returncode == 0
    cellar = kept_identity(stage.fleet.directory / "cellar-state")
    assert cellar is not None

    with pytest.raises(httpx2.HTTPError):
        answer_to(attic.port, trusting_anybody(cellar.key_file))
    stage.remove("cellar")


def test_what_the_gateway_shows_is_accepted(stage: Stage, attic: Daemon) -> None:
    """Or the refusals above would prove nothing."""
    context = trusting_anybody(stage.fleet.directory / "gateway-state" / "join" / "gateway.pem")

    assert answer_to(attic.port, context).status_code == 200


def test_without_an_address_the_gateway_that_invites_is_found_and_shown(stage: Stage) -> None:
    token = stage.invite()
    file = stage.fleet.directory / "found.toml"
    file.write_text(f'port = {free_port()}\nstate = "found-state"\n')
    until("it is announced", lambda: stage.gateway.events("announced"), 20)
    options = ["--token", token, "--name", "found", "--interface", "127.0.0.1", "-c", str(file)]
    unsure = stage.run("neuron", "join", *options)
    done = stage.run("neuron", "join", *options, "--yes")
    fingerprint = shown(parse_token(token).fingerprint)

    assert (unsure.returncode, "found" in stage.nodes()) == (1, True), "nobody said yes, so nothing was asked of it"
    assert done.returncode == 0, done.stderr
    assert f"at {stage.gateway.url}. Its fingerprint, as in the token: {fingerprint}" in done.stdout
    stage.remove("found")


def test_a_gateway_that_announces_another_fingerprint_is_not_taken_for_the_tokens(stage: Stage) -> None:
    token = parse_token(stage.invite())._replace(fingerprint=bytes(32))
    until("it is announced", lambda: stage.gateway.events("announced"), 20)
    done = stage.run("neuron", "join", "--token", str(token), "--interface", "127.0.0.1", "--yes")

    assert done.returncode == 1
    assert "no gateway on this network announces the fingerprint that is in the token" in done.stderr


@pytest.mark.parametrize("change", [lambda token: token[:9] + "A" * 43 + token[52:]], ids=["another secret"])
def test_a_wrong_token_lets_nobody_in(stage: Stage, change: Any) -> None:
    done = stage.join("thief", change(stage.invite()), free_port())

    assert done.returncode == 1
    assert "not one of this gateway's" in done.stderr
    assert not (stage.fleet.directory / "thief-state").exists()
    assert "thief" not in stage.nodes()


def test_a_token_of_another_gateway_is_not_given_away(stage: Stage) -> None:
    """The invitation is right, and what answers is not the gateway whose fingerprint is in the token."""
    token = stage.invite()
    done = stage.join("lost", token[:53] + "A" * 43, free_port())

    assert done.returncode == 2
    assert "its fingerprint is another" in done.stderr
    stage.remove("lost")


def test_an_expired_token_lets_nobody_in(stage: Stage) -> None:
    token = stage.invite("--for", "0.001s")
    done = stage.join("late", token, free_port())

    assert (done.returncode, "the token expired" in done.stderr) == (1, True), done.stderr


def test_a_token_is_good_once(stage: Stage) -> None:
    token = stage.invite()
    assert stage.join("first", token, free_port()).returncode == 0
    done = stage.join("second", token, free_port())

    assert (done.returncode, "has been used, by 'first'" in done.stderr) == (1, True)
    stage.remove("first")


def test_the_gateway_knows_its_nodes_again_after_a_restart(stage: Stage, attic: Daemon) -> None:
    stage.restart()
    stage.until_healthy("attic")

    assert stage.chat().status_code == 200


def test_a_node_that_shows_another_certificate_is_not_taken_for_the_one_that_joined(stage: Stage) -> None:
    """Whoever has its address, and even a certificate of the same authority, is not the node."""
    honest = stage.joined("honest")
    stage.until_healthy("honest")
    honest.stop()
    assert stage.join("other", stage.invite(), free_port()).returncode == 0
    until("honest is missed", lambda: not stage.nodes()["honest"]["healthy"])
    (stage.fleet.directory / "other.toml").write_text("")
    impostor = stage.fleet.neuron("other", port=honest.port, has_joined=True)
    told = "it shows another certificate than the one it joined with"
    until("the gateway says why", lambda: told in str(stage.nodes()["honest"].get("reason")))

    impostor.stop()
    stage.remove("honest")
    stage.remove("other")


def test_remove_revokes_and_the_node_runs_on_unheard(stage: Stage, attic: Daemon) -> None:
    stage.chat()
    assert engine_pids(attic)
    stage.remove("attic")

    assert stage.nodes() == {}
    assert alive(attic.process.pid)
    refused = stage.chat()
    assert refused.status_code == 503, refused.text


def test_no_log_has_a_key_or_a_token_in_it(stage: Stage, attic: Daemon) -> None:
    logs = "".join(path.read_text() for path in stage.fleet.directory.glob("*.log"))

    assert "PRIVATE KEY" not in logs
    assert not re.search(r"[0-9a-f]{8}\.[\w-]{43}\.", logs)
