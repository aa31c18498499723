"""The life of the packages on one machine, in this order: installed, used, upgraded, removed, purged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from machine import Machine

GATEWAY, NEURON = "cortex-gateway.service", "cortex-neuron.service"
CHAT = "http://127.0.0.1:31313/v1/chat/completions"


def ask(machine: Machine, **wanted: object) -> str:
    """Return the answer of a simulated model through gateway and node."""
    return machine.run("curl", "--silent", "--fail-with-body", CHAT, *request(**wanted))


def request(**wanted: object) -> list[str]:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Hello."}], **wanted}
    return ["--header", "content-type: application/json", "--data", json.dumps(body)]


def override(machine: Machine, unit: str, **settings: str) -> None:
    directory = machine.root / "etc/systemd/system" / f"{unit}.d"
    directory.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    (directory / "test.conf").write_text(f"[Service]\n{lines}")
    machine.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def before(machine: Machine) -> set[str]:
    """The files that were there before."""
    return machine.files()


def test_they_install_without_a_network_and_start(machine: Machine, before: set[str], packages: list[Path]) -> None:
    assert before
    machine.install(packages)

    for unit in (GATEWAY, NEURON):
        machine.wait_for(unit, "ActiveState", "active")
        assert machine.run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert machine.shows(unit, "NRestarts") == "0"
    assert machine.shows(GATEWAY, "StatusText") == "Serving on 127.0.0.1:31313 and 127.0.0.1:31314"
    assert machine.run("systemctl", "--failed", "--no-legend") == ""


def test_gateway_and_node_work_together_as_they_come(machine: Machine) -> None:
    machine.wait_until(
        lambda: machine.run("cortex", "status", "--json", check=False), lambda told: '"healthy": 1' in told
    )
    answer = json.loads(ask(machine, max_tokens=8))

    assert answer["usage"]["completion_tokens"] == 8
    assert "llamacpp" in machine.run("curl", "--silent", "http://127.0.0.1:13131/discovery")
    assert "here" in machine.run("cortex", "status")


def test_each_has_a_user_of_its_own_and_reads_only_its_own_configuration(machine: Machine) -> None:
    files = [f"/etc/cortex/{name}.toml" for name in ("cortex", "models", "neuron")]
    listing = machine.run("stat", "--format", "%a %U:%G %n", *files)

    assert listing.splitlines() == [
        "640 root:cortex /etc/cortex/cortex.toml",
        "640 root:cortex /etc/cortex/models.toml",
        "640 root:neuron /etc/cortex/neuron.toml",
    ]
    for unit, user in ((GATEWAY, "cortex"), (NEURON, "neuron")):
        process = machine.shows(unit, "MainPID")
        assert machine.run("ps", "--no-headers", "-o", "user", "--pid", process).strip() == user
    assert set(machine.run("id", "--name", "--groups", "neuron").split()) == {"neuron", "render", "video"}


def test_the_processes_are_confined(machine: Machine) -> None:
    for unit in (GATEWAY, NEURON):
        status = machine.run("cat", f"/proc/{machine.shows(unit, 'MainPID')}/status")
        told = dict(line.split(":\t", 1) for line in status.splitlines())
        assert (told["NoNewPrivs"], int(told["CapBnd"], 16), told["Seccomp"]) == ("1", 0, "2")


def test_systemd_finds_nothing_wrong_with_the_units_and_little_exposed(machine: Machine) -> None:
    files = [f"/lib/systemd/system/{unit}" for unit in (GATEWAY, NEURON)]

    assert machine.run("systemd-analyze", "verify", "--man=no", *files) == ""
    for file in files:
        machine.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", file)


def test_a_key_that_root_makes_is_one_that_the_gateway_reads(machine: Machine) -> None:
    made = machine.run("cortex", "key", "create", "ada", "--scope", "admin")
    key = re.search(r"ctx_\S+", made)
    assert key is not None
    machine.run("systemctl", "reload", GATEWAY)
    machine.wait_for(GATEWAY, "StatusText", "Serving; the files as they are now are in effect")

    with pytest.raises(AssertionError, match="invalid_api_key"):
        ask(machine)
    shown = machine.run("curl", "--silent", "--fail-with-body", CHAT, *request(), "-H", f"x-api-key: {key[0]}")
    assert json.loads(shown)["choices"]
    assert machine.run("stat", "--format", "%a %U:%G", "/etc/cortex/keys.toml").strip() == "640 root:cortex"
    (machine.root / "etc/cortex/keys.toml").unlink()
    machine.run("systemctl", "restart", GATEWAY)


def test_a_reload_that_is_refused_is_told_by_systemctl(machine: Machine) -> None:
    file = machine.root / "etc/cortex/models.toml"
    text = file.read_text()
    file.write_text(text + "nonsense = 1\n")
    machine.run("systemctl", "reload", GATEWAY)

    told = machine.wait_until(lambda: machine.shows(GATEWAY, "StatusText"), lambda status: "nonsense" in status)
    assert "/etc/cortex/models.toml is not in effect" in told
    file.write_text(text)
    machine.run("systemctl", "reload", GATEWAY)
    machine.wait_for(GATEWAY, "StatusText", "Serving; the files as they are now are in effect")


def test_what_is_killed_comes_back(machine: Machine) -> None:
    for unit in (GATEWAY, NEURON):
        killed = machine.shows(unit, "MainPID")
        machine.run("kill", "-KILL", killed)
        machine.wait_for(unit, "NRestarts", "1")
        machine.wait_for(unit, "ActiveState", "active")
        assert machine.shows(unit, "MainPID") not in (killed, "0")


def test_what_hangs_is_killed_by_the_watchdog_and_comes_back(machine: Machine) -> None:
    override(machine, GATEWAY, WatchdogSec="2s", TimeoutAbortSec="1s")
    machine.run("systemctl", "restart", GATEWAY)
    hung = machine.shows(GATEWAY, "MainPID")
    machine.run("kill", "-STOP", hung)
    machine.wait_for(GATEWAY, "NRestarts", "1")
    machine.wait_for(GATEWAY, "ActiveState", "active")

    assert machine.shows(GATEWAY, "MainPID") != hung
    assert "Watchdog timeout" in machine.journal(GATEWAY)
    machine.run("systemctl", "revert", GATEWAY)


def test_an_upgrade_keeps_edits_and_lets_answers_end(machine: Machine, next_packages: list[Path]) -> None:
    config = machine.root / "etc/cortex/neuron.toml"
    config.write_text(config.read_text() + "\n# ours\n")
    before = {unit: machine.shows(unit, "MainPID") for unit in (GATEWAY, NEURON)}
    words = machine.start("curl", "--silent", "--no-buffer", CHAT, *request(stream=True, max_tokens=400))
    assert words.stdout is not None
    assert any(line.startswith("data:") for line in words.stdout)

    machine.install(next_packages)

    assert words.communicate(timeout=60)[0].rstrip().endswith("data: [DONE]")
    assert config.read_text().endswith("# ours\n")
    for unit, process in before.items():
        machine.wait_for(unit, "ActiveState", "active")
        assert machine.shows(unit, "MainPID") != process
    assert json.loads(ask(machine, max_tokens=2))["choices"]


def test_a_stop_is_a_clean_one(machine: Machine) -> None:
    for unit in (GATEWAY, NEURON):
        machine.run("systemctl", "stop", unit)
        assert machine.shows(unit, "Result") == "success"


def test_the_pages_and_completions_are_there(machine: Machine) -> None:
    pages = {path.name for path in (machine.root / "usr/share/man/man1").glob("*.gz")}
    completed = machine.run("env", "COMP_WORDS=cortex sta", "COMP_CWORD=1", "_CORTEX_COMPLETE=bash_complete", "cortex")

    assert {"cortex.1.gz", "cortex-serve.1.gz", "neuron.1.gz", "neuron-serve.1.gz"} <= pages
    assert completed == "plain,status\n"
    machine.run("bash", "-c", ". /usr/share/bash-completion/completions/neuron && complete -p neuron")


def test_an_engine_of_the_machine_s_owner_comes_before_the_packaged_one(machine: Machine) -> None:
    """Builds for GPUs are installed there."""
    local = machine.root / "usr/local/lib/cortex/python3.11"
    local.mkdir(parents=True)
    (local / "xllamacpp.py").write_text("OURS = True\n")

    assert machine.run("/usr/lib/cortex/bin/python3", "-c", "import xllamacpp; print(xllamacpp.OURS)") == "True\n"
    machine.run("rm", "-r", "/usr/local/lib/cortex")


def test_after_a_purge_nothing_is_left_but_the_users(machine: Machine, before: set[str]) -> None:
    """Users stay, as is the custom: what they owned elsewhere must not fall to whoever gets their number next."""
    machine.run("dpkg", "--purge", "cortex-gateway", "cortex-neuron", "cortex-common")

    added = machine.files() - before
    assert {path for path in added if "cortex" in path or "neuron" in path} == set()
    assert {path for path in added if not path.startswith(("./etc/", "./var/"))} == set()
