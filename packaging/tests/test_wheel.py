from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from conftest import DIST, ROOT


def built(pattern: str) -> Path:
    (found,) = DIST.glob(pattern)
    return found


def test_the_wheel_has_every_file_of_the_package() -> None:
    """Static files too, whatever their kind."""
    tracked = subprocess.check_output(["git", "ls-files", "src/cortex"], cwd=ROOT, text=True).splitlines()
    inside = set(zipfile.ZipFile(built("*.whl")).namelist())

    assert {path.removeprefix("src/") for path in tracked} <= inside


def test_the_source_has_what_its_own_build_and_readers_need() -> None:
    with tarfile.open(built("*.tar.gz")) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}

    needed = {
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "docs/install.md",
    }
    assert needed | {"packaging/build.py", "examples/cortex.example.toml", "src/cortex/__init__.py"} <= inside


def test_it_installs_alone_and_both_programs_run(tmp_path: Path) -> None:
    """From anywhere but the source, with the pinned releases and no inference stack."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    target = ["--python", str(tmp_path / "v/bin/python"), "--disable-pip-version-check", "install", "--quiet"]
    wheel = ["--constraint", str(ROOT / "constraints.txt"), str(built("*.whl"))]
    subprocess.run([sys.executable, "-m", "pip", *target, *wheel], check=True)

    for program in ("cortex", "neuron"):
        told = subprocess.check_output([tmp_path / "v/bin" / program, "--version"], cwd=tmp_path, text=True)
        assert told.startswith(f"{program}, version ")
    assert not list((tmp_path / "v").rglob("xllamacpp*"))
