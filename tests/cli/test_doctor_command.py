from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from cortex.cli.main import cortex

from .conftest import CannedGateway


@pytest.fixture(autouse=True)
def _log_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command says what is logged in its process, and loggers keep that; the tests after it want to hear all."""
    monkeypatch.setattr("cortex.cli.doctor_command._quiet_log", lambda: None)
    with capture_logs():
        yield


@pytest.fixture
def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture
def files(tmp_path: Path, free_port: int) -> Path:
    """A gateway's files without a node, and this machine's as one."""
    (tmp_path / "cortex.toml").write_text(
        f'[gateway]\nlisten = "127.0.0.1:{free_port}"\nmetrics_listen = "127.0.0.1:0"\nstate = "state"\n'
    )
    (tmp_path / "models.toml").write_text('[[models]]\nid = "m"\nengine = "simulated"\n')
    (tmp_path / "neuron.toml").write_text(f'port = 0\n[models]\ncache = "{tmp_path}"\n')
    return tmp_path


def doctor(files: Path, *options: str) -> Result:
    return CliRunner().invoke(cortex, ["doctor", "-c", str(files / "cortex.toml"), *options])


def grades(done: Result) -> dict[str, str]:
    """The worst grade of each subject."""
    found: dict[str, str] = {}
    for finding in json.loads(done.stdout):
        order = ["well", "warning", "wrong"]
        found[finding["subject"]] = max(found.get(finding["subject"], "well"), finding["grade"], key=order.index)
    return found


def test_files_that_are_well_are_said_to_be_and_a_fleet_without_nodes_is_not(files: Path) -> None:
    done = doctor(files, "--json")

    assert done.exit_code == 0, done.output
    assert grades(done) == {
        "configuration": "well",
        "catalogue": "well",
        "keys": "well",
        "state": "well",
        "nodes": "warning",
        "port": "well",
    }


@pytest.mark.parametrize(
    ("file", "text", "subject"),
    [
        ("cortex.toml", "[gatewy]\n", "configuration"),
        ("models.toml", "[[models]]\n", "catalogue"),
        ("cortex.toml", '[gateway]\nlisten = "0.0.0.0:31313"\n', "keys"),
        ("cortex.toml", '[keys]\nfile = "none.toml"\n', "keys"),
        ("cortex.toml", '[keys]\nnode_token_file = "none"\n', "node token"),
        ("state/nodes.json", "{", "nodes"),
    ],
)
def test_what_would_stop_the_start_is_wrong_and_makes_the_status_1(
    files: Path, file: str, text: str, subject: str
) -> None:
    (files / "state").mkdir()
    (files / file).write_text(text)

    done = doctor(files, "--json")

    assert done.exit_code == 1, done.output
    assert grades(done)[subject] == "wrong"


def test_a_port_that_another_program_has_is_wrong(files: Path, gateway: CannedGateway) -> None:
    (files / "cortex.toml").write_text(f'[gateway]\nlisten = "{gateway.url.removeprefix("http://")}"\n')

    assert grades(doctor(files, "--json"))["port"] == "wrong"


def test_a_node_that_only_the_catalogue_knows_is_told(files: Path) -> None:
    (files / "models.toml").write_text('[[models]]\nid = "m"\nengine = "simulated"\nnodes = ["attic"]\n')

    done = doctor(files)

    assert "m may run on attic, and there is no such node" in done.stdout


def test_a_machine_is_looked_at_as_the_node_it_is_to_be(files: Path) -> None:
    (files / "neuron.toml").write_text(
        f'host = "0.0.0.0"\nport = 0\n[models]\ncache = "{files}"\n'
        '[[default_models]]\nid = "m"\nengine = "llamacpp"\nsource = "./none.gguf"\n'
    )

    done = doctor(files, "-n", str(files / "neuron.toml"), "--json")

    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert grades(done)["neuron"] == "warning"
    assert grades(done)["devices"] == "well"
    assert any("none.gguf cannot be read" in finding["said"] for finding in found)


def test_without_any_configuration_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(cortex, ["doctor"])

    assert done.exit_code == 2
    assert "neuron.toml" in done.output
