"""Both programs explain themselves, and what is wrong is one line with the remedy and a status that tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cortex import __version__
from cortex.cli import daemon, gateway_commands, neuron_commands
from cortex.cli.main import cortex, neuron
from cortex.cli.options import base_url

COMMANDS = [
    *((cortex, [name]) for name in ("serve", "status", "models", "chat", "up")),
    *((cortex, [name]) for name in ("explain", "node", "record", "simulate", "key")),
    *((cortex, ["node", name]) for name in ("list", "add", "remove", "drain", "undrain")),
    (neuron, ["serve"]),
]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty directory of a machine without configuration."""
    monkeypatch.chdir(tmp_path)
    for module in (daemon, gateway_commands, neuron_commands):
        monkeypatch.setattr(module, "find_config", lambda _name: None, raising=False)
    return tmp_path


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_help_shows_examples(program: click.Group, command: list[str], flag: str) -> None:
    result = CliRunner().invoke(program, [*command, flag])

    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert "until-stdin-closes" not in result.stdout


@pytest.mark.parametrize(("program", "name"), [(cortex, "cortex"), (neuron, "neuron")])
def test_version(program: click.Group, name: str) -> None:
    assert CliRunner().invoke(program, ["--version"]).stdout == f"{name}, version {__version__}\n"


def test_a_gateway_without_configuration_says_where_it_looked_and_what_to_do(nowhere: Path) -> None:
    result = CliRunner().invoke(cortex, ["serve"])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for part in ("cortex.toml", "/etc/cortex/cortex.toml", "--config", "cortex up"):
        assert part in result.stderr


@pytest.mark.parametrize("program", [cortex, neuron])
def test_a_named_file_that_is_missing_stops_the_start(program: click.Group, nowhere: Path) -> None:
    result = CliRunner().invoke(program, ["serve", "-c", "gone.toml"])

    assert (result.exit_code, result.stderr) == (2, "Error: gone.toml: no such file\n")


def test_an_unknown_key_stops_the_gateway(nowhere: Path) -> None:
    (nowhere / "cortex.toml").write_text('[gateway]\nlisen = "127.0.0.1:0"\n')

    result = CliRunner().invoke(cortex, ["serve", "-c", "cortex.toml"])

    assert result.exit_code == 2
    assert "unknown key 'gateway.lisen'; did you mean 'listen'?" in result.stderr


def test_a_missing_catalogue_stops_the_gateway(nowhere: Path) -> None:
    (nowhere / "cortex.toml").touch()

    result = CliRunner().invoke(cortex, ["serve", "-c", "cortex.toml"])

    assert result.exit_code == 2
    assert "models.toml: no such file; list the models" in result.stderr


def test_a_wrong_log_level_stops_a_neuron_that_needs_no_file(nowhere: Path) -> None:
    result = CliRunner().invoke(neuron, ["serve"], env={"CORTEX_LOG": "loud"})

    assert result.exit_code == 2
    assert "'loud' is not a level" in result.stderr


def test_configuration_is_found_in_the_first_directory_that_has_it(tmp_path: Path) -> None:
    here, etc = tmp_path / "here", tmp_path / "etc"
    here.mkdir()
    etc.mkdir()
    (etc / "cortex.toml").touch()
    assert daemon.find_config("cortex.toml", [here, etc]) == etc / "cortex.toml"

    (here / "cortex.toml").touch()

    assert daemon.find_config("cortex.toml", [here, etc]) == here / "cortex.toml"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://box:31313", "http://box:31313"),
        ("http://box:31313/v1/", "http://box:31313"),
        ("box:31313", "http://box:31313"),
        ("https://box/cortex/v1", "https://box/cortex"),
    ],
)
def test_an_endpoint_may_be_written_as_sdks_want_it(given: str, meant: str) -> None:
    context = click.Context(gateway_commands.status)

    assert base_url(context, context.command.params[0], given) == meant


def test_a_process_started_with_the_flag_stops_when_its_stdin_closes() -> None:
    code = """
import time
from cortex.cli.daemon import stop_when_stdin_closes
stop_when_stdin_closes()
print("up", flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "up\n"

        process.stdin.close()

        assert process.wait(10) == -15


def test_the_help_imports_no_client_and_no_server() -> None:
    code = """
import sys
from click.testing import CliRunner
from cortex.cli.main import cortex
print(CliRunner().invoke(cortex, ["--help"], catch_exceptions=False).exit_code)
print(sorted({"httpx2", "uvicorn", "starlette", "cortex.gateway", "cortex.fleet"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "0\n[]\n"


def test_looking_at_a_fleet_imports_no_server_and_no_engine() -> None:
    code = """
import sys
from cortex.cli.main import cortex
from cortex.cli import chat, draining, fleet_tables, gateway_client, recording, tables
heavy = {"xllamacpp", "uvicorn", "starlette", "huggingface_hub", "cortex.neuron", "cortex.gateway.app"}
print(sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "[]\n"
