from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import Machine, booted, why_not_here

ROOT = Path(__file__).resolve().parents[2]
DIST = Path(os.environ.get("CORTEX_DIST") or ROOT / "dist")


def debs(directory: Path) -> list[Path]:
    found = sorted(directory.glob("cortex-*.deb"))
    assert len(found) == 3, f"{directory}: expected three packages; `make packages` builds them"
    return found


@pytest.fixture(scope="session")
def packages() -> list[Path]:
    """The Debian packages."""
    return debs(DIST)


@pytest.fixture(scope="session")
def next_packages(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same again, as a later version."""
    out = tmp_path_factory.mktemp("next")
    for package in packages:
        tree = out / package.stem
        subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
        control = tree / "DEBIAN/control"
        version = package.name.split("_")[1]
        control.write_text(control.read_text().replace(version, f"{version}+next"))
        build = ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", "-z1", str(tree), str(out)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)
    return debs(out)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that nothing was installed on."""
    reason = why_not_here()
    if reason:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("machine") / "root"
    root.mkdir()
    with booted("bookworm", root) as machine:
        yield machine
