from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from conftest import DIST
from machine import why_not_here

pytestmark = pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here()))
# Where the two families of distributions keep the same things.
ELSEWHERE = {
    "/lib/systemd/": "/usr/lib/systemd/",
    "/usr/share/zsh/vendor-completions/": "/usr/share/zsh/site-functions/",
}
DEBIAN_S_OWN = ("/etc/ufw", "/usr/share/lintian", "/usr/share/doc")
RPM_S_OWN = ("/usr/share/doc",)


def rpm(name: str) -> Path:
    (found,) = DIST.glob(f"{name}-*.rpm")
    return found


def asked(name: str, *query: str) -> list[str]:
    return subprocess.check_output(["rpm", "--query", "--package", *query, str(rpm(name))], text=True).splitlines()


def in_deb(package: Path) -> set[str]:
    """Return the files of the Debian package, at the places where RPM's distributions have them."""
    listing = subprocess.check_output(["dpkg-deb", "--contents", str(package)], text=True).splitlines()
    paths = {line.split(maxsplit=5)[5].split(" -> ")[0].removeprefix(".") for line in listing if line[0] != "d"}
    for ours, theirs in ELSEWHERE.items():
        paths = {path.replace(ours, theirs, 1) if path.startswith(ours) else path for path in paths}
    return {path for path in paths if not path.startswith(DEBIAN_S_OWN)}


@pytest.mark.parametrize("name", ["cortex-common", "cortex-gateway", "cortex-neuron"])
def test_an_rpm_has_the_files_of_the_debian_package(name: str, packages: list[Path]) -> None:
    (deb,) = [package for package in packages if package.name.startswith(f"{name}_")]
    listing = asked(name, "--queryformat", r"[%{FILEMODES:perms} %{FILENAMES}\n]")
    files = {line.split(" ", 1)[1] for line in listing if line[0] != "d"}

    assert {path for path in files if not path.startswith(RPM_S_OWN)} == in_deb(deb)


def test_the_engine_is_in_the_package_of_the_node_alone() -> None:
    assert [line for line in asked("cortex-common", "--requires") if re.fullmatch(r"/usr/bin/python3\.\d+", line)]
    assert not [path for path in asked("cortex-common", "--list") if "xllamacpp" in path]
    assert [path for path in asked("cortex-neuron", "--list") if "xllamacpp" in path]


@pytest.mark.parametrize("name", ["cortex-gateway", "cortex-neuron"])
def test_what_an_rpm_runs_is_for_its_own_service_alone(name: str) -> None:
    scripts = "\n".join(asked(name, "--queryformat", "%{POSTIN}\n%{PREUN}\n%{POSTUN}\n"))
    subprocess.run(["sh", "-n"], input=scripts, text=True, check=True)

    assert set(re.findall(r"cortex-\w+\.(?:service|conf)", scripts)) == {f"{name}.service", f"{name}.conf"}


def test_configuration_is_kept_on_an_upgrade_and_hidden_from_others() -> None:
    for name, count in (("cortex-gateway", 2), ("cortex-neuron", 1)):
        modes = asked(name, "--queryformat", r"[%{FILEMODES:perms} %{FILEFLAGS:fflags} %{FILENAMES}\n]")
        configs = [line for line in modes if line.endswith(".toml") and "/etc/" in line]
        assert len(configs) == count
        assert all(line.startswith("-rw-r----- cn ") for line in configs)
