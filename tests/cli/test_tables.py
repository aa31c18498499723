"""`cortex status` and `cortex models` show what the gateway says, and their exit status tells a script."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from cortex.cli.main import cortex

from .conftest import CannedGateway

HEALTH: dict[str, Any] = {
    "status": "ok",
    "nodes": {"healthy": 1, "total": 2},
    "details": [
        {
            "name": "beast",
            "endpoint": "http://10.0.0.1:13131",
            "healthy": True,
            "reason": "",
            "devices": [{"name": "RTX [bold]4090", "kind": "cuda", "free_bytes": 3 << 30}],
            "models": [{"id": "qwen3", "status": "ready", "in_flight": 2}],
        },
        {
            "name": "attic",
            "endpoint": "http://10.0.0.2:13131",
            "healthy": False,
            "reason": "connection refused",
            "devices": [],
            "models": [],
        },
    ],
}
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [
        {
            "id": "qwen3",
            "state": "ready",
            "locations": [{"node": "beast", "status": "loaded", "error": None}],
            "feasible_on": ["beast"],
            "context_length": 32768,
            "engine": "llamacpp",
            "simulated": False,
            "aliases": ["q"],
        },
        {
            "id": "pretend",
            "state": "unavailable",
            "locations": [],
            "feasible_on": [],
            "context_length": None,
            "engine": "simulated",
            "simulated": True,
            "aliases": [],
            "reason": "attic: connection refused",
        },
    ],
}


def run(gateway: CannedGateway, *arguments: str) -> Result:
    return CliRunner().invoke(cortex, [*arguments, "-e", gateway.url])


def test_status_shows_every_node_with_memory_models_and_reason(gateway: CannedGateway) -> None:
    gateway.answers["/health"] = (200, json.dumps(HEALTH).encode())

    result = run(gateway, "status")

    assert result.exit_code == 0
    for part in ("beast", "RTX [bold]4090 (cuda), 3.0 GiB free", "qwen3 ready, 2 in flight"):
        assert part in result.stdout
    assert "unhealthy: connection refused" in result.stdout


def test_status_is_1_without_a_healthy_node(gateway: CannedGateway) -> None:
    gateway.answers["/health"] = (200, b'{"status":"degraded","nodes":{"healthy":0,"total":0},"details":[]}')

    result = run(gateway, "status")

    assert result.exit_code == 1
    assert "no node is configured" in result.stdout


def test_json_is_the_gateway_s_own_answer(gateway: CannedGateway) -> None:
    gateway.answers["/health"] = (200, json.dumps(HEALTH).encode())
    gateway.answers["/v1/models"] = (200, json.dumps(MODELS).encode())

    assert json.loads(run(gateway, "status", "--json").stdout) == HEALTH
    assert json.loads(run(gateway, "models", "--json").stdout) == MODELS


def test_status_shows_what_is_drained_is_leaving_or_runs_another_version(gateway: CannedGateway) -> None:
    beast, attic = HEALTH["details"]
    changed = {
        **HEALTH,
        "version": "0.3.0",
        "refused_edits": {"/etc/cortex/models.toml": "unknown key 'modls'"},
        "details": [
            {**beast, "drained": True, "version": "0.2.0"},
            {**attic, "leaving": True, "reason": "is shutting down", "version": "0.3.0"},
        ],
    }
    gateway.answers["/health"] = (200, json.dumps(changed).encode())

    result = run(gateway, "status")

    for part in ("drained", "shutting down", "version 0.2.0, and the gateway has 0.3.0"):
        assert result.stdout.count(part) == 1
    assert "Warning: the last edit of /etc/cortex/models.toml is not in effect: unknown key" in result.stderr


def test_models_shows_replicas_and_what_keeps_them(gateway: CannedGateway) -> None:
    ready, cold = MODELS["data"]
    marks = {"replicas": 1, "max_replicas": 3, "priority": 200, "pinned_on": ["beast"], "ttl_seconds": 900.0}
    plain = {"replicas": 0, "max_replicas": 1, "priority": 100, "pinned": False, "pinned_on": [], "min_resident": 0}
    listing = {"data": [{**ready, **marks}, {**cold, **plain}]}
    gateway.answers["/v1/models"] = (200, json.dumps(listing).encode())

    result = run(gateway, "models")

    assert "1 of 3" in result.stdout
    assert "pinned on beast, priority 200, ttl 900 s" in result.stdout
    assert result.stdout.count("priority") == 1


def test_models_shows_where_each_is_and_why_not(gateway: CannedGateway) -> None:
    gateway.answers["/v1/models"] = (200, json.dumps(MODELS).encode())

    result = run(gateway, "models")

    assert result.exit_code == 0
    for part in ("qwen3", "also q", "beast loaded", "32768", "simulated", "attic: connection refused"):
        assert part in result.stdout


def test_an_absent_gateway_is_one_line_with_the_remedy() -> None:
    result = CliRunner().invoke(cortex, ["status", "-e", "http://127.0.0.1:1"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no gateway answers at http://127.0.0.1:1 (")
    assert "cortex up" in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_program_on_the_port_is_recognised(gateway: CannedGateway) -> None:
    gateway.answers["/health"] = (200, b"<html>hello</html>")

    result = run(gateway, "status")

    assert result.exit_code == 1
    assert "does not answer as a gateway does" in result.stderr
