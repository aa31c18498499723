"""No image is built here: the files are linted, configuration is read by the programs' code, health is asked for."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import load_config
from cortex.neuron.config import load_config as load_neuron_config

CONTAINERS = ROOT / "packaging/containers"
FILES = sorted(CONTAINERS.glob("*.Containerfile"))
COMPOSE = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())


def instructions(file: Path, name: str) -> list[str]:
    joined = file.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def environment(file: Path) -> dict[str, str]:
    """Return what the image sets, as the program would find it."""
    return dict(pair.split("=", 1) for line in instructions(file, "ENV") for pair in line.split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True)

    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_has_pinned_bases_a_user_of_its_own_and_a_health_check(file: Path) -> None:
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+\S*( AS build)?", base) for base in instructions(file, "FROM"))
    assert re.fullmatch(r"1000\d:1000\d", instructions(file, "USER")[-1])
    (port,) = re.findall(r'CMD \["cortex-healthcheck", "(\d+)"\]', file.read_text())
    assert port in instructions(file, "EXPOSE")[0].split()


def test_what_is_copied_and_mounted_is_there() -> None:
    copied = [line.split() for file in FILES for line in instructions(file, "COPY") if "--from" not in line]
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"] if mount[0] == "."]

    for words in copied:
        assert all((ROOT / source).exists() for source in words[:-1] if not source.startswith("--"))
    assert all((CONTAINERS / mount.split(":")[0]).is_file() for mount in mounts)
    builds = [service["build"] for service in COMPOSE["services"].values()]
    assert all((CONTAINERS / build["context"] / build["dockerfile"]).is_file() for build in builds)


def test_the_gateway_of_compose_reads_its_configuration_and_knows_the_node() -> None:
    config = load_config(CONTAINERS / "cortex.toml", environment(CONTAINERS / "gateway.Containerfile"))
    catalogue = load_catalogue(ROOT / "packaging/etc/models.toml")

    assert config.gateway.listen == "0.0.0.0:31313"
    assert [neuron.address for neuron in config.neurons] == [("node", 13131)]
    assert config.keys.node_token_file == "/run/secrets/node-token"
    assert "simulated" in catalogue.specs
    assert COMPOSE["services"]["gateway"]["ports"] == ["127.0.0.1:31313:31313"]


@pytest.mark.parametrize("name", ["node-cpu", "node-cuda"])
def test_a_node_listens_to_others_and_keeps_models_in_the_volume(name: str, tmp_path: Path) -> None:
    file = CONTAINERS / f"{name}.Containerfile"
    (tmp_path / "neuron.toml").touch()
    config = load_neuron_config(tmp_path / "neuron.toml", environment(file))

    assert (config.host, config.port) == ("0.0.0.0", 13131)
    assert f'["{config.cache}"]' in instructions(file, "VOLUME")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """A running node with a token: its port, and the environment that it and its health check have."""
    (tmp_path / "token").write_text("sixteen-characters\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mine = {"NEURON_TOKEN_FILE": str(tmp_path / "token"), "NEURON_MODELS__CACHE": str(tmp_path)}
    env = {**os.environ, **mine}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(60)
        program = [str(Path(sys.executable).with_name("neuron")), "serve", "--port", str(port)]
        running = subprocess.Popen(program, env={**env, "NOTIFY_SOCKET": ear.getsockname()}, cwd=tmp_path)
        try:
            assert ear.recv(4096).startswith(b"READY=1\n")
            yield port, env
        finally:
            running.terminate()
            running.wait(60)


def test_the_health_check_tells_a_node_that_answers_from_one_that_does_not(
    node: tuple[int, dict[str, str]], tmp_path: Path
) -> None:
    port, env = node
    check = [sys.executable, str(CONTAINERS / "healthcheck.py")]
    well = subprocess.run([*check, str(port)], env=env)
    (tmp_path / "other").write_text("not-what-the-node-wants")
    refused = subprocess.run(
        [*check, str(port)], env={**env, "NEURON_TOKEN_FILE": str(tmp_path / "other")}, capture_output=True, text=True
    )

    assert well.returncode == 0
    assert (refused.returncode, "401" in refused.stderr) == (1, True)
