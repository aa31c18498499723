from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cortex.cli.joining import own_address
from cortex.cli.main import neuron
from cortex.neuron.identity import Kept, keep_identity, kept_identity
from cortex.wire.joining import Token
from harness import free_port

TOKEN = str(Token("0f1e2d3c", bytes(32), bytes(32)))
KEPT = Kept(name="attic", gateway="http://g:1", host="10.0.0.2", port=13131, key_file="identity-1.pem", authority="a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "neuron.toml"
    path.write_text('state = "state"\n')
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(neuron, arguments)


def test_a_token_that_is_not_whole_is_refused_before_anything_is_asked(file: Path) -> None:
    result = run("join", "gateway:1", "--token", TOKEN[:-1], "-c", str(file))

    assert (result.exit_code, "copy all of what" in result.stderr) == (2, True)
    assert TOKEN[:20] not in result.stderr


def test_a_port_that_is_another_at_each_start_is_refused(file: Path) -> None:
    file.write_text("port = 0\n")
    result = run("join", "127.0.0.1:1", "--token", TOKEN, "-c", str(file))

    assert (result.exit_code, "name one with --port" in result.stderr) == (2, True)


def test_a_gateway_that_does_not_answer_is_named_and_nothing_is_kept(file: Path) -> None:
    result = run("join", f"127.0.0.1:{free_port()}", "--token", TOKEN, "--name", "attic", "-c", str(file))

    assert (result.exit_code, "no gateway answers at http://127.0.0.1:" in result.stderr) == (1, True)
    assert not (file.parent / "state").exists()


def test_a_host_that_the_gateway_does_not_reach_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.cli.joining.own_address", lambda _: "10.0.0.2")
    file.write_text('host = "127.0.0.1"\n')
    result = run("join", "gateway:1", "--token", TOKEN, "-c", str(file))

    assert (result.exit_code, "take the line out, or say where it does with --address" in result.stderr) == (2, True)


def test_the_way_to_a_gateway_on_this_machine_is_by_loopback() -> None:
    assert own_address("http://127.0.0.1:31313") == "127.0.0.1"


def test_leaving_forgets_the_gateway_and_says_what_is_left_to_do(file: Path) -> None:
    state = file.parent / "state"
    keep_identity(state, KEPT, b"key")
    result = run("leave", "-c", str(file))

    assert (result.exit_code, kept_identity(state)) == (0, None)
    assert "cortex node remove attic" in result.stdout
    assert run("leave", "-c", str(file)).exit_code == 1, "there is nothing to leave any more"
