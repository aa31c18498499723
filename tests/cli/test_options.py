"""A key reaches the gateway from every command that asks one, and is shown nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cortex.cli.main import cortex

from .conftest import CannedGateway

KEY = "ctx_of-nobody"
COMMANDS = (["status"], ["models"], ["chat", "m", "hi"], ["explain", "m"], ["node", "list"], ["node", "drain", "a"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_the_key(gateway: CannedGateway, command: list[str]) -> None:
    CliRunner().invoke(cortex, [*command, "-e", gateway.url], env={"CORTEX_API_KEY": f"{KEY}\n"})
    CliRunner().invoke(cortex, [*command, "-e", gateway.url, "--key", KEY])
    CliRunner().invoke(cortex, [*command, "-e", gateway.url])

    assert gateway.shown == [f"Bearer {KEY}", f"Bearer {KEY}", None]


def test_a_recording_shows_the_key(gateway: CannedGateway, tmp_path: Path) -> None:
    gateway.answers["/fleet/events"] = (403, b"{}")
    CliRunner().invoke(cortex, ["record", str(tmp_path / "out.jsonl"), "-e", gateway.url, "--key", KEY])

    assert gateway.shown == [f"Bearer {KEY}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_who_is_not_let_in_hears_how_to_show_a_key(gateway: CannedGateway, command: list[str]) -> None:
    refusal = b'{"error":{"message":"this gateway wants a key","type":"authentication_error","code":"invalid_api_key"}}'
    for path in ("/health", "/v1/models", "/v1/chat/completions", "/fleet", "/fleet/explain/m", "/fleet/nodes/a/drain"):
        gateway.answers[path] = (401, refusal)
    result = CliRunner().invoke(cortex, [*command, "-e", gateway.url])

    assert result.exit_code == 1
    assert "this gateway wants a key; give one with --key or CORTEX_API_KEY" in result.stderr


@pytest.mark.parametrize("key", ["two words", "naïve", "line\nbreak"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(gateway: CannedGateway, key: str) -> None:
    result = CliRunner().invoke(cortex, ["status", "-e", gateway.url, "--key", key])

    assert result.exit_code == 2
    assert "not a key" in result.stderr
    assert key not in result.stderr
    assert gateway.asked == []
