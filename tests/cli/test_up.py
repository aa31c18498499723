"""`cortex up` writes files that parse, finds trouble before it starts anything, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cortex.cli import children as children_module
from cortex.cli import up as up_module
from cortex.cli.children import Children
from cortex.cli.failures import Failure, Misconfigured
from cortex.cli.main import cortex
from cortex.cli.up import Wanted, curl_line, prepare, state_directory
from cortex.cli.up_files import cortex_toml, neuron_toml
from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import catalogue_path, load_config
from cortex.neuron.config import load_config as load_neuron_config


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, each with a free one above it."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
        ports.append(port)
    return ports


@pytest.fixture
def wanted() -> Wanted:
    listen, neuron = free_ports(2)
    return Wanted(None, f"127.0.0.1:{listen}", neuron, ask=True, state=None)


def test_generated_files_are_read_by_the_programs_themselves(tmp_path: Path, wanted: Wanted) -> None:
    plan = prepare(wanted, tmp_path, {})

    neuron = load_neuron_config(plan.neuron_config, {})
    gateway = load_config(plan.gateway_config, {})
    catalogue = load_catalogue(catalogue_path(plan.gateway_config, gateway))
    assert neuron.port == wanted.neuron_port
    assert [n.endpoint for n in gateway.neurons] == [plan.neuron_endpoint] == [f"http://127.0.0.1:{neuron.port}"]
    assert f"http://{gateway.gateway.listen}" == plan.endpoint
    assert plan.asked is not None
    assert plan.asked is plan.catalogue.find("demo")
    assert set(catalogue.specs) == {"smollm2-135m-instruct", "simulated"}
    assert catalogue.specs["simulated"].options == {"tokens_per_second": 50}


def test_a_path_with_anything_in_it_survives_the_generated_file(tmp_path: Path) -> None:
    catalogue = tmp_path / 'a "b" \\ 😀 \x7f.toml'
    file = tmp_path / "cortex.toml"
    file.write_text(cortex_toml("[::1]:4000", "http://127.0.0.1:1", catalogue), encoding="utf-8")

    config = load_config(file, {})

    assert catalogue_path(file, config) == catalogue
    assert (config.gateway.listen, config.gateway.metrics_listen) == ("[::1]:4000", "[::1]:4001")


def test_an_own_catalogue_is_used_where_it_lies(tmp_path: Path, wanted: Wanted) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[[models]]\nid = "mine"\nengine = "simulated"\n')

    plan = prepare(Wanted(own, wanted.listen, wanted.neuron_port, ask=True, state=None), tmp_path, {})

    assert list(plan.catalogue.specs) == ["mine"]
    assert not (tmp_path / "models.toml").exists()


def test_the_environment_overrides_the_defaults_and_an_option_overrides_the_environment(
    tmp_path: Path, wanted: Wanted
) -> None:
    listen, neuron = free_ports(2)
    env = {"CORTEX_GATEWAY__LISTEN": f"0.0.0.0:{listen}", "NEURON_PORT": str(neuron)}
    unnamed = Wanted(None, None, None, ask=True, state=None)
    both_free = {**env, "CORTEX_GATEWAY__METRICS_LISTEN": f"127.0.0.1:{listen + 1}"}

    from_env = prepare(unnamed, tmp_path, both_free)
    from_options = prepare(wanted, tmp_path, env)

    assert (from_env.endpoint, from_env.neuron_endpoint) == (f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{neuron}")
    assert from_options.endpoint == f"http://{wanted.listen}"
    assert "NEURON_PORT" not in from_options.env


@pytest.mark.parametrize(("taken", "option"), [("listen", "--listen"), ("neuron", "--neuron-port")])
def test_a_taken_port_is_named_with_its_option(tmp_path: Path, wanted: Wanted, taken: str, option: str) -> None:
    port = int((wanted.listen or "").rpartition(":")[2]) if taken == "listen" else wanted.neuron_port
    with socket.create_server(("127.0.0.1", port or 0)), pytest.raises(Misconfigured) as caught:
        prepare(wanted, tmp_path, {})

    assert caught.value.message.startswith(f"{option}: cannot listen on 127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:0", "127.0.0.1:x"])
def test_an_address_that_cannot_be_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(Misconfigured, match=r"^--listen"):
        prepare(Wanted(None, listen, None, ask=True, state=None), tmp_path, {})


def test_a_missing_engine_is_said_with_the_command_that_installs_it(
    tmp_path: Path, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up_module, "find_spec", lambda _: None)

    with pytest.raises(Misconfigured, match=r"pip install 'cortex-fleet\[llamacpp\]'"):
        prepare(wanted, tmp_path, {})


def test_a_second_one_in_the_same_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up_module.signal, "signal", lambda *_: None)
    with up_module._locked(tmp_path):
        result = CliRunner().invoke(cortex, ["up", "--state", str(tmp_path)])

    assert result.exit_code == 2
    assert "another `cortex up` runs in" in result.stderr


def test_files_go_to_the_user_s_state_directory() -> None:
    assert state_directory({"XDG_STATE_HOME": "/var/s"}) == Path("/var/s/cortex/up")
    assert state_directory({}) == Path.home() / ".local/state/cortex/up"


def test_the_line_to_paste_survives_the_shell() -> None:
    assert "'" not in curl_line("http://127.0.0.1:1", "demo").split(" -d ")[1].strip("'")


def test_neuron_file_is_plain() -> None:
    assert "port = 7\n" in neuron_toml(7)


class Sleepers(Children):
    """Children that run code of ours."""

    def run(self, name: str, code: str) -> None:
        self.start(name, code)


@pytest.fixture
def sleepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sleepers:
    popen = children_module.subprocess.Popen
    monkeypatch.setattr(
        children_module.subprocess,
        "Popen",
        lambda command, **keys: popen([sys.executable, "-c", command[-2]], **keys),
    )
    return Sleepers(tmp_path, os.environ, grace_seconds=0.3)


def test_a_child_that_dies_is_reported_with_its_last_words(sleepers: Sleepers) -> None:
    with sleepers:
        sleepers.run("neuron", "import sys; sys.exit('out of luck')")
        with pytest.raises(Failure) as caught:
            sleepers.check(within_seconds=20)

    assert "the neuron ended with status 1" in caught.value.message
    assert "out of luck" in caught.value.message


def test_children_are_stopped_in_order_and_the_stubborn_one_is_killed(
    sleepers: Sleepers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); open('{}', 'w'); time.sleep(60)"
    ready = tmp_path / "ready"
    with sleepers:
        sleepers.run("neuron", stubborn.format(ready))
        sleepers.run("gateway", "import time; time.sleep(60)")
        while not ready.exists():
            sleepers.check(within_seconds=0.05)

    statuses = [child.process.returncode for child in sleepers._children]
    assert statuses == [-signal.SIGKILL, -signal.SIGTERM]
    said = capsys.readouterr().err
    assert said.index("stopping the gateway") < said.index("stopping the neuron") < said.index("killing it")


def test_a_child_that_dies_is_started_again_until_it_dies_too_often(
    sleepers: Sleepers, capsys: pytest.CaptureFixture[str]
) -> None:
    with sleepers:
        sleepers.start("neuron", "raise SystemExit(3)")
        with pytest.raises(Failure, match=r"the neuron ended 6 times within 60 s: the neuron ended with status 3"):
            sleepers.keep_up()
    assert capsys.readouterr().err.count("starting the neuron again") == 5
