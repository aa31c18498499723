"""`cortex trace`: what it asks of the gateway, and what it says."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from cortex.cli.main import cortex

from .conftest import CannedGateway

ENTRY = {"id": "req-1", "received": 1.0, "seconds": 2.5, "outcome": "failed", "status": 503, "code": "no_memory"}
STORY = {**ENTRY, "model": "m", "node": "a", "spans": [{"name": "waiting", "at": 0.0, "seconds": 2.5, "depth": 0}]}


def run(gateway: CannedGateway, *arguments: str) -> Result:
    return CliRunner().invoke(cortex, ["trace", *arguments, "-e", gateway.url])


def test_without_an_id_it_lists_what_is_wanted(gateway: CannedGateway) -> None:
    path = "/traces?slow=true&failed=true&model=org%2Fm&key=alice&since=1h&limit=5"
    gateway.answers[path] = (200, json.dumps({"data": [ENTRY]}).encode())
    wanted = ["--slow", "--failed", "--model", "org/m", "--key-name", "alice", "--since", "1h", "--limit", "5"]
    result = run(gateway, *wanted)

    assert result.exit_code == 0
    assert "req-1" in result.stdout
    assert "failed 503 (no_memory)" in result.stdout


def test_none_is_said_to_be_none(gateway: CannedGateway) -> None:
    gateway.answers["/traces?limit=20"] = (200, b'{"data": []}')

    assert "no such requests" in run(gateway).stdout


def test_with_an_id_it_tells_the_story(gateway: CannedGateway) -> None:
    gateway.answers["/traces/req-1"] = (200, json.dumps(STORY).encode())
    result = run(gateway, "req-1")

    assert result.stdout.startswith("req-1  m on a  failed 503 (no_memory)  2.5 s")
    assert "waiting" in result.stdout


def test_json_is_the_gateway_s_own_answer(gateway: CannedGateway) -> None:
    gateway.answers["/traces/req-1"] = (200, json.dumps(STORY).encode())

    assert json.loads(run(gateway, "req-1", "--json").stdout) == STORY


def test_one_that_is_not_kept_is_said_so(gateway: CannedGateway) -> None:
    gateway.answers["/traces/nope"] = (404, b'{"error": {"message": "there is no trace of it", "code": "x"}}')
    result = run(gateway, "nope")

    assert result.exit_code == 1
    assert "there is no trace of it" in result.stderr
