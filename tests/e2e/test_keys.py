"""Keys, limits and the nodes' token between real processes, and nothing of them in any log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from click.testing import CliRunner

from cortex.cli.main import cortex
from harness import Daemon, Fleet, free_port, until

TOKEN = "the-token-of-all-nodes-0123456789"
MODELS = """
[[models]]
id = "sim"
engine = "simulated"
options = { load_seconds = 0, tokens_per_second = 200 }
[[models]]
id = "other"
engine = "simulated"
options = { load_seconds = 0 }
"""
HELLO = [{"role": "user", "content": "hi"}]


class Stage:
    """A neuron with a token, a gateway with keys, and the keys themselves."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.directory = fleet, fleet.directory
        self.key_file = self.directory / "keys.toml"
        self.secrets: dict[str, str] = {}
        (self.directory / "token").write_text(TOKEN + "\n")
        self.key("ada", "--model", "sim", "--rpm", "100")
        self.key("operator", "--scope", "admin")
        port = free_port()
        self.neuron = fleet.neuron("a", port=port, config='host = "0.0.0.0"\ntoken_file = "token"\n')
        self.gateway = fleet.gateway(MODELS, {"a": port}, config='[keys]\nnode_token_file = "token"\n')
        until("the node is healthy", lambda: self.get("/health").json()["nodes"]["healthy"] == 1)

    def key(self, name: str, *options: str) -> str:
        """Make a key as an operator does."""
        result = CliRunner().invoke(cortex, ["key", "create", name, *options, "--file", str(self.key_file)])
        assert result.exit_code == 0, result.output
        self.secrets[name] = result.stdout.strip()
        return self.secrets[name]

    def revoke(self, name: str) -> None:
        assert CliRunner().invoke(cortex, ["key", "revoke", name, "--file", str(self.key_file)]).exit_code == 0

    def get(self, path: str, key: str = "") -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.secrets[key]}"} if key else {}
        return httpx2.get(self.gateway.url + path, headers=headers, trust_env=False, timeout=10)

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.gateway.url + "/v1", api_key=key, max_retries=0, timeout=30)

    def cli(self, *command: str, key: str) -> Any:
        env = {"CORTEX_API_KEY": self.secrets.get(key, ""), "CORTEX_ENDPOINT": self.gateway.url}
        return CliRunner().invoke(cortex, list(command), env=env)


@pytest.fixture(scope="module")
def stage(fleet: Fleet) -> Stage:
    return Stage(fleet)


def test_a_client_with_a_key_is_served_and_told_its_limits(stage: Stage) -> None:
    client = stage.client(stage.secrets["ada"])
    raw = client.chat.completions.with_raw_response.create(model="sim", messages=HELLO, max_tokens=5)  # type: ignore[arg-type]

    assert raw.parse().choices[0].message.content
    assert raw.headers["x-ratelimit-limit-requests"] == "100"
    assert [model.id for model in client.models.list()] == ["sim"]
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="other", messages=HELLO)  # type: ignore[arg-type]
    with pytest.raises(openai.AuthenticationError):
        stage.client("ctx_wrong").models.list()


def test_the_operator_s_commands_take_a_key(stage: Stage) -> None:
    assert stage.cli("node", "list", "--json", key="operator").exit_code == 0
    assert stage.cli("models", key="ada").exit_code == 0
    assert "of scope admin" in stage.cli("node", "list", key="ada").stderr
    assert "CORTEX_API_KEY" in stage.cli("models", key="").stderr


def test_a_node_tells_nobody_anything_without_its_token(stage: Stage) -> None:
    assert httpx2.get(stage.neuron.url + "/health", trust_env=False).status_code == 401
    direct = {"model": "sim", "messages": HELLO}
    assert httpx2.post(stage.neuron.url + "/v1/chat/completions", json=direct, trust_env=False).status_code == 401
    assert stage.neuron.events("neuron_is_open") == []


def test_edits_of_the_key_file_take_effect_and_broken_ones_do_not(stage: Stage) -> None:
    stage.key("bob")
    until("bob is let in", lambda: stage.get("/v1/models", "bob").status_code == 200)
    whole = stage.key_file.read_text()
    stage.key_file.write_text(whole.replace("[[keys]]", "[[keys]", 1))
    until("the edit is refused", lambda: stage.get("/health").json().get("refused_edits"))
    assert stage.get("/v1/models", "bob").status_code == 200
    stage.key_file.unlink()
    until("the loss is told", lambda: "no such file" in json.dumps(stage.get("/health").json()["refused_edits"]))
    assert stage.get("/v1/models").status_code == 401
    stage.key_file.touch(mode=0o600)
    stage.key_file.write_text(whole)
    until("the file is good again", lambda: not stage.get("/health").json().get("refused_edits"))
    stage.revoke("bob")
    until("bob is kept out", lambda: stage.get("/v1/models", "bob").status_code == 401)


def test_a_budget_holds_over_a_restart(stage: Stage) -> None:
    """What was used is in the ledger within the second, however the gateway ends."""
    stage.key("eve", "--budget", "60", "--window", "1h")
    until("eve is let in", lambda: stage.get("/v1/models", "eve").status_code == 200)
    client = stage.client(stage.secrets["eve"])
    answer = client.chat.completions.create(model="sim", messages=HELLO, max_tokens=20)  # type: ignore[arg-type]
    assert answer.usage is not None
    used = answer.usage.total_tokens
    assert stage.gateway.stop() == 0
    stage.gateway = stage.fleet.gateway(MODELS, {"a": stage.neuron.port}, config='[keys]\nnode_token_file = "token"\n')
    until("the node is healthy", lambda: stage.get("/health").json()["nodes"]["healthy"] == 1)
    client = stage.client(stage.secrets["eve"])
    raw = client.chat.completions.with_raw_response.create(model="sim", messages=HELLO, max_tokens=1)  # type: ignore[arg-type]

    assert int(raw.headers["x-ratelimit-remaining-tokens"]) < 60 - used
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="sim", messages=HELLO, max_tokens=100)  # type: ignore[arg-type]
    assert caught.value.code == "insufficient_quota"


def test_a_node_with_another_token_says_why_it_is_out(stage: Stage) -> None:
    (stage.directory / "wrong").write_text(TOKEN[::-1])
    wrong = stage.fleet.gateway(
        MODELS, {"a": stage.neuron.port}, name="wrong", config='[keys]\nauth = "none"\nnode_token_file = "wrong"\n'
    )
    try:
        until("the refusal is known", lambda: wrong.events("node_refuses"))
        [node] = httpx2.get(wrong.url + "/fleet", trust_env=False).json()["nodes"]
        assert (node["healthy"], node["reason"]) == (False, "refuses our token")
    finally:
        wrong.stop()


@pytest.mark.parametrize(("config", "said"), [("", "cortex key create NAME"), ('[keys]\nauth = "keys"', "no key file")])
def test_a_gateway_that_is_not_safe_does_not_start(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "models.toml").touch()
    listen = f'[gateway]\nlisten = "0.0.0.0:{free_port()}"\nstate = "state"\n'
    (tmp_path / "cortex.toml").write_text(listen + config)
    command = [str(Path(sys.executable).parent / "cortex"), "serve", "--config", str(tmp_path / "cortex.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 2
    assert said in ended.stderr


def test_no_secret_is_in_any_log_or_metric(stage: Stage) -> None:
    """After all of the above, and some mistakes that clients make."""
    shown = stage.secrets["ada"]
    for headers in ({"x-api-key": shown + "x"}, {"authorization": f"Basic {shown}"}, {"x-request-id": "r1"}):
        httpx2.post(stage.gateway.url + "/v1/chat/completions", headers=headers, content=b"{", trust_env=False)
    metrics = stage.get("/metrics", "operator").text
    daemons: list[Daemon] = list(stage.fleet.daemons.values())
    written = metrics + "".join(daemon.log_path.read_text() for daemon in daemons)

    assert 'cortex_key_requests_total{key="eve"}' in metrics
    assert '"key":"ada"' in written.replace(" ", "")
    assert TOKEN not in written
    for secret in stage.secrets.values():
        assert secret.removeprefix("ctx_")[:12] not in written
