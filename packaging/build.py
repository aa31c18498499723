"""Build the Debian and RPM packages into a directory: `make packages`.

It wants pip's ordinary index, debhelper and rpmbuild; nothing else is fetched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import time
import tomllib
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from layout import PACKAGING, PROGRAMS, ROOT, Layout, run

MAINTAINER = "Cortex maintainers <maintainers@cortex.invalid>"


@dataclass(frozen=True)
class Release:
    """What is released: *version* as Python writes it, the *revision* of the packages, and when in Unix time."""

    version: str
    revision: int
    epoch: int

    @property
    def upstream(self) -> str:
        """The version so that dpkg and RPM sort it: a release candidate comes before the release."""
        return re.sub(r"(?<=\d)\.?(a|b|rc|dev)(?=\d)", r"~\1", self.version)


def main() -> None:
    """Build what is asked for on the command line."""
    asked = arguments()
    release = Release(project_version(), asked.revision, last_change())
    python = Path(asked.python).resolve()
    work: Path = asked.work
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.keep_layout:
        Layout(work / "tree", python, wheel_in(asked.out, release.version), release.epoch).make()
    if "deb" in asked.formats:
        build_deb(work, asked.out, release, python)
    if "rpm" in asked.formats:
        build_rpm(work, asked.out, release, python)


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Build the Debian and RPM packages of the wheel in OUT.")
    parser.add_argument("--python", default="/usr/bin/python3", help="the distribution's own Python, 3.11 or newer")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheel is and packages go")
    parser.add_argument("--work", type=Path, default=ROOT / "build/packages", help="where they are made")
    parser.add_argument("--revision", type=int, default=1, help="of the packages of this version")
    parser.add_argument("--formats", nargs="+", default=["deb", "rpm"], choices=["deb", "rpm"])
    parser.add_argument("--keep-layout", action="store_true", help="package what is laid out already")
    return parser.parse_args()


def project_version() -> str:
    """Return the version that pyproject.toml says."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return version


def last_change() -> int:
    """Return when what is packaged last changed, in Unix time: equal sources make equal packages.

    It is $SOURCE_DATE_EPOCH, else the time of the last commit, else, outside a checkout, that of the changelog.
    """
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    git = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return int(git.stdout) if git.returncode == 0 else int((ROOT / "CHANGELOG.md").stat().st_mtime)


def wheel_in(directory: Path, version: str) -> Path:
    """Return the wheel of *version* in *directory*."""
    wheels = list(directory.glob(f"cortex_fleet-{version}-*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{directory}: expected one wheel of {version}; `make dist` builds it")
    return wheels[0]


def build_deb(work: Path, out: Path, release: Release, python: Path) -> None:
    """Build the Debian packages with debhelper."""
    source = work / "deb" / f"cortex-fleet-{release.upstream}"
    shutil.rmtree(work / "deb", ignore_errors=True)
    debian = source / "debian"
    shutil.copytree(PACKAGING / "debian", debian)
    fill(debian / "control", release, python)
    fill(debian / "changelog", release, python)
    for package in PROGRAMS:
        for kind in ("service", "sysusers", "tmpfiles"):
            shutil.copyfile(PACKAGING / "systemd" / f"{package}.{kind}", debian / f"{package}.{kind}")
    env = {"SOURCE_DATE_EPOCH": str(release.epoch), "CORTEX_TREES": str(work / "tree")}
    run(["dpkg-buildpackage", "--build=binary", "--no-sign"], cwd=source, env=env)
    for built in sorted((work / "deb").glob("*.deb")):
        shutil.copyfile(built, out / built.name)


def build_rpm(work: Path, out: Path, release: Release, python: Path) -> None:
    """Build the RPM packages with rpmbuild."""
    top = work / "rpm"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    spec = top / "cortex-fleet.spec"
    shutil.copyfile(PACKAGING / "rpm/cortex-fleet.spec", spec)
    fill(spec, release, python)
    defines = {
        "_topdir": str(top),
        "trees": str(work / "tree"),
        "systemd": str(PACKAGING / "systemd"),
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
        "_buildhost": "localhost",
    }
    flags = [flag for name, value in defines.items() for flag in ("--define", f"{name} {value}")]
    run(["rpmbuild", "-bb", "--quiet", *flags, str(spec)], env={"SOURCE_DATE_EPOCH": str(release.epoch)})
    for built in sorted(top.glob("RPMS/*/*.rpm")):
        shutil.copyfile(built, out / built.name)


def fill(path: Path, release: Release, python: Path) -> None:
    """Write what is known only now into the @PLACES@ of the file at *path*."""
    known = {
        "VERSION": release.upstream,
        "REVISION": str(release.revision),
        "DATE": formatdate(release.epoch),
        "RPM_DATE": time.strftime("%a %b %d %Y", time.gmtime(release.epoch)),
        "PYTHON": str(python),
        "PYTHON_PACKAGE": python.name,
        "MAINTAINER": MAINTAINER,
    }
    path.write_text(re.sub(r"@([A-Z_]+)@", lambda place: known[place[1]], path.read_text()))


if __name__ == "__main__":
    main()
