"""The operator's commands: what each asks of the gateway, what it says, and the status that a script sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cortex.cli import draining
from cortex.cli.main import cortex

from .conftest import CannedGateway

EXPLAINED: dict[str, Any] = {
    "model": "org/qwen3",
    "decision": "load",
    "summary": "it is loaded on beast: fits beside what is there",
    "catalogued": True,
    "replicas": [],
    "candidates": [{"node": "beast", "verdict": "free", "reason": "fits", "devices": [], "plan": None}],
    "last": [{"time": 1.0, "kind": "evicted", "node": "beast", "reason": "makes room for smol"}],
}
FLEET = {"nodes": [{"name": "beast", "healthy": True, "drained": True, "replicas": []}]}


def run(gateway: CannedGateway, *arguments: str) -> Result:
    return CliRunner().invoke(cortex, [*arguments, "-e", gateway.url])


@pytest.fixture
def explained(gateway: CannedGateway) -> dict[str, Any]:
    gateway.answers["/fleet/explain/org/qwen3"] = (200, json.dumps(EXPLAINED).encode())
    return EXPLAINED


def test_explain_says_what_would_happen(gateway: CannedGateway, explained: dict[str, Any]) -> None:
    result = run(gateway, "explain", "org/qwen3")

    assert result.exit_code == 0
    assert result.stdout.startswith("org/qwen3: it is loaded on beast")
    assert "evicted" not in result.stdout


def test_explain_last_says_what_happened(gateway: CannedGateway, explained: dict[str, Any]) -> None:
    result = run(gateway, "explain", "org/qwen3", "--last")

    assert result.exit_code == 0
    assert "makes room for smol" in result.stdout


def test_explain_json_is_the_gateway_s_own_answer(gateway: CannedGateway, explained: dict[str, Any]) -> None:
    assert json.loads(run(gateway, "explain", "org/qwen3", "--json").stdout) == explained


@pytest.mark.parametrize(("decision", "status"), [("serve", 0), ("queue", 0), ("load", 0), ("wait", 0), ("refuse", 1)])
@pytest.mark.parametrize("how", [[], ["--json"], ["--last"]])
def test_explain_tells_a_script_whether_the_model_can_be_had(
    gateway: CannedGateway, decision: str, status: int, how: list[str]
) -> None:
    gateway.answers["/fleet/explain/m"] = (200, json.dumps({**EXPLAINED, "decision": decision}).encode())

    assert run(gateway, "explain", "m", *how).exit_code == status


def test_explain_names_what_may_have_been_meant(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/explain/a%20b"] = (404, b'{"error":{"message":"no model a b; did you mean ab?"}}')

    result = run(gateway, "explain", "a b")

    assert (result.exit_code, result.stderr) == (1, "Error: no model a b; did you mean ab?\n")


def test_an_older_gateway_is_named_with_the_path_that_it_has_not(gateway: CannedGateway) -> None:
    assert f"{gateway.url}/fleet: HTTP 404" in run(gateway, "node", "list").stderr


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "m"],
        ["node", "list"],
        ["node", "add", "a", "b:1"],
        ["node", "drain", "a", "--wait"],
        ["record", "o"],
    ],
)
def test_an_absent_gateway_is_one_line_with_the_remedy(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(cortex, [*command, "-e", "http://127.0.0.1:1"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no gateway answers at http://127.0.0.1:1 (")
    assert "cortex up" in result.stderr
    assert result.stderr.count("\n") == 1


def test_nodes_are_listed(gateway: CannedGateway) -> None:
    gateway.answers["/fleet"] = (200, json.dumps(FLEET).encode())

    assert "beast" in run(gateway, "node", "list").stdout
    assert json.loads(run(gateway, "node", "list", "--json").stdout) == FLEET


def test_a_fleet_without_nodes_says_how_to_add_one(gateway: CannedGateway) -> None:
    gateway.answers["/fleet"] = (200, b'{"nodes":[]}')

    assert "cortex node add NAME URL" in run(gateway, "node", "list").stdout


@pytest.mark.parametrize("url", ["http://10.0.0.2:13131", "10.0.0.2:13131", "http://10.0.0.2:13131/"])
def test_a_node_is_added_by_its_address(gateway: CannedGateway, url: str) -> None:
    gateway.answers["/fleet/nodes"] = (201, b'{"name":"attic","endpoint":"http://10.0.0.2:13131"}')

    result = run(gateway, "node", "add", "attic", url)

    assert result.stdout.startswith("attic at http://10.0.0.2:13131 is added")
    assert [json.loads(body) for body in gateway.posted] == [{"name": "attic", "endpoint": "http://10.0.0.2:13131"}]


def test_a_refused_order_says_why(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/nodes/beast"] = (400, b'{"error":{"message":"it is in the configuration file"}}')

    result = run(gateway, "node", "remove", "beast")

    assert (result.exit_code, result.stderr) == (1, "Error: it is in the configuration file\n")


def test_a_node_is_removed(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/nodes/a%2Fb"] = (200, b'{"removed":true}')

    assert run(gateway, "node", "remove", "a/b").exit_code == 0
    assert gateway.asked == ["DELETE /fleet/nodes/a%2Fb"]


def test_a_drained_node_can_be_put_back(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/nodes/beast/drain"] = (200, b"{}")
    gateway.answers["/fleet/nodes/beast/undrain"] = (200, b"{}")

    drained, undrained = run(gateway, "node", "drain", "beast"), run(gateway, "node", "undrain", "beast")

    assert "`cortex node undrain beast` puts it back" in drained.stdout
    assert undrained.stdout == "beast is back in service.\n"
    assert gateway.asked == ["POST /fleet/nodes/beast/drain", "POST /fleet/nodes/beast/undrain"]


def test_an_empty_node_is_safe_to_stop(gateway: CannedGateway) -> None:
    gateway.answers["/fleet/nodes/beast/drain"] = (200, b"{}")
    gateway.answers["/fleet"] = (200, json.dumps(FLEET).encode())

    result = run(gateway, "node", "drain", "beast", "--wait")

    assert (result.exit_code, result.stdout) == (0, "Nothing is left on beast: it is safe to stop.\n")


def test_what_only_this_node_can_serve_makes_stopping_it_unsafe(
    gateway: CannedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "LOOKS_TO_BELIEVE", 1)
    pinned = {"model": "m", "state": "ready", "in_flight": 2}
    fleet = {"nodes": [{**FLEET["nodes"][0], "replicas": [pinned]}]}
    gateway.answers["/fleet/nodes/beast/drain"] = (200, b"{}")
    gateway.answers["/fleet"] = (200, json.dumps(fleet).encode())
    gateway.answers["/fleet/explain/m"] = (200, json.dumps({**EXPLAINED, "candidates": []}).encode())

    result = run(gateway, "node", "drain", "beast", "--wait")

    assert result.exit_code == 1
    assert "m stays: there is no other node (2 in flight)" in result.stdout


def test_an_interrupted_wait_leaves_the_node_drained_and_says_how_to_undo_that(
    gateway: CannedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(draining, "drain_and_wait", interrupted)
    gateway.answers["/fleet/nodes/beast/drain"] = (200, b"{}")

    result = run(gateway, "node", "drain", "beast", "--wait")

    assert result.exit_code == 130
    assert "beast stays drained. `cortex node undrain beast` puts it back" in result.stderr


def test_a_recording_is_not_written_over(gateway: CannedGateway, tmp_path: Path) -> None:
    out = tmp_path / "monday.jsonl"
    out.write_text("{}\n")

    result = run(gateway, "record", str(out))

    assert result.exit_code == 2
    assert "has a recording already" in result.stderr
    assert out.read_text() == "{}\n"


def test_a_recording_ends_by_itself_and_says_what_it_has(gateway: CannedGateway, tmp_path: Path) -> None:
    entry = {"kind": "request", "time": 9.0, "arrived": 9.0, "model": "m", "prompt_tokens": 4, "completion_tokens": 2}
    gateway.answers["/fleet/events"] = (200, f"data: {json.dumps(entry)}\n\n".encode())
    out = tmp_path / "monday.jsonl"

    result = run(gateway, "record", str(out), "--for", "1ms")

    assert result.exit_code == 0
    assert "monday.jsonl: 1 request in " in result.stderr
    assert json.loads(out.read_text())["model"] == "m"


@pytest.mark.parametrize("duration", ["soon", "0", "0s"])
def test_a_recording_needs_a_real_duration(gateway: CannedGateway, duration: str) -> None:
    result = run(gateway, "record", "out.jsonl", "--for", duration)

    assert result.exit_code == 2
    assert "--for" in result.stderr
