from __future__ import annotations

import configparser
import subprocess
import xml.etree.ElementTree
from pathlib import Path

import pytest

from conftest import DIST, ROOT
from machine import why_not_here

PACKAGING = ROOT / "packaging"

pytestmark = pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here()))


def output_of(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return f"{done.stdout}exit status {done.returncode}\n"


def test_lintian_finds_nothing(packages: list[Path]) -> None:
    found = output_of("lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", *packages)

    assert found == "exit status 0\n"


def test_rpmlint_finds_nothing() -> None:
    rpms = sorted(DIST.glob("*.rpm"))
    assert len(rpms) == 3

    found = output_of("rpmlint", "--config", PACKAGING / "rpm/rpmlint.toml", *rpms).splitlines()
    assert [line for line in found if " E: " in line or " W: " in line] == []
    assert found[-1] == "exit status 0"


@pytest.mark.parametrize("package", ["cortex-gateway", "cortex-neuron"])
def test_both_firewalls_open_the_same_ports(package: str) -> None:
    service = xml.etree.ElementTree.parse(PACKAGING / f"firewall/firewalld/{package}.xml").getroot()
    profile = configparser.ConfigParser()
    profile.read(PACKAGING / f"firewall/ufw/{package}")

    opened = [f"{port.get('port')}/{port.get('protocol')}" for port in service.iter("port")]
    assert opened
    assert [profile[name]["ports"] for name in profile.sections()] == opened
