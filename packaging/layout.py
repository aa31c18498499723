"""Lay out what the packages install: a directory tree for each of cortex-common, cortex-gateway and cortex-neuron.

Debian and RPM packages are made of the same trees. /usr/lib/cortex is a virtual environment of the distribution's own
Python, with the pinned releases of all that Cortex needs; the engine of a node is in the tree of the node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
HOME = "usr/lib/cortex"
# Builds of an engine for other hardware, put there by the machine's owner, come before the packaged one.
LOCAL = "/usr/local/lib/cortex"
PROGRAMS = {"cortex-gateway": "cortex", "cortex-neuron": "neuron"}
CONFIGS = {"cortex-gateway": ("cortex.toml", "models.toml"), "cortex-neuron": ("neuron.toml",)}
EXAMPLES = {
    "cortex-gateway": ("cortex.example.toml", "models.example.toml", "keys.example.toml"),
    "cortex-neuron": ("neuron.example.toml",),
}
LAUNCHER = """\
#!/{home}/bin/python3 -I
import sys

from cortex.cli.main import {program}

sys.exit({program}())
"""


@dataclass(frozen=True)
class Layout:
    """Where the trees are, and what they are made from."""

    root: Path
    python: Path
    wheel: Path
    epoch: int

    def tree(self, package: str) -> Path:
        """The directory that becomes / where *package* is installed."""
        return self.root / package

    @property
    def home(self) -> Path:
        """The virtual environment."""
        return self.tree("cortex-common") / HOME

    @property
    def site(self) -> Path:
        """Its site-packages."""
        return self.home / "lib" / self.python.name / "site-packages"

    def make(self) -> None:
        """Lay all of it out, in place of what was there."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._environment()
        self._install(str(self.wheel))
        before = set(self.site.iterdir())
        self._install(f"{self.wheel}[llamacpp]")
        self._tidy()
        copy(ROOT / "CHANGELOG.md", self.tree("cortex-common") / "usr/share/doc/cortex-common/NEWS.md")
        self._programs()
        self._pages_and_completions()
        for package in PROGRAMS:
            self._files_of(package)
        self._compile()
        self._move_engine(set(self.site.iterdir()) - before - {self.site / "__pycache__"})

    def _environment(self) -> None:
        self.home.mkdir(parents=True)
        binaries = self.home / "bin"
        binaries.mkdir()
        (binaries / "python3").symlink_to(self.python)
        self.site.mkdir(parents=True)
        (self.home / "pyvenv.cfg").write_text(f"home = {self.python.parent}\ninclude-system-site-packages = false\n")
        local = f"{LOCAL}/{self.python.name}"
        (self.site / "cortex-local.pth").write_text(f"import sys; sys.path.insert(1, {local!r})\n")

    def _install(self, what: str) -> None:
        target = ["--python", str(self.home / "bin/python3"), "--disable-pip-version-check"]
        pins = ["--constraint", str(ROOT / "constraints.txt"), "--no-compile", "--no-warn-script-location"]
        run([sys.executable, "-m", "pip", *target, "install", "--quiet", *pins, what])

    def _tidy(self) -> None:
        """Take out what tells of the machine that built it or is of no use, and the debugging symbols of wheels."""
        for script in (self.home / "bin").iterdir():
            if script.name != "python3":
                script.unlink()
        for told in ("direct_url.json", "RECORD", "REQUESTED", "INSTALLER"):
            remove(self.site.glob(f"*.dist-info/{told}"))
        remove(self.home.rglob("*.pyi"))
        remove(self.home.rglob("*.pyx"))
        for module in self.site.rglob("*.py"):
            drop_interpreter(module)
        for library in self.site.rglob("*.so*"):
            library.chmod(0o755)
            run(["strip", "--strip-unneeded", str(library)])
            library.chmod(0o644)

    def _programs(self) -> None:
        for package, program in PROGRAMS.items():
            path = self.tree(package) / "usr/bin" / program
            path.parent.mkdir(parents=True)
            path.write_text(LAUNCHER.format(home=HOME, program=program))
            path.chmod(0o755)

    def _pages_and_completions(self) -> None:
        """Have the installed programs describe themselves."""
        date = subprocess.check_output(["date", "--utc", f"--date=@{self.epoch}", "+%F"], text=True).strip()
        made = self.root / "pages"
        run([str(self.home / "bin/python3"), "-I", "-B", str(PACKAGING / "manpages.py"), str(made), date])
        for package, program in PROGRAMS.items():
            shutil.copytree(made / program, self.tree(package), dirs_exist_ok=True)
        shutil.rmtree(made)

    def _files_of(self, package: str) -> None:
        tree = self.tree(package)
        for name in CONFIGS[package]:
            copy(PACKAGING / "etc" / name, tree / "etc/cortex" / name, 0o640)
        for name in EXAMPLES[package]:
            copy(ROOT / "examples" / name, tree / "usr/share/doc" / package / "examples" / name)
        copy(ROOT / "docs/install.md", tree / "usr/share/doc" / package / "install.md")
        copy(PACKAGING / f"firewall/firewalld/{package}.xml", tree / f"usr/lib/firewalld/services/{package}.xml")
        copy(PACKAGING / f"firewall/ufw/{package}", tree / f"etc/ufw/applications.d/{package}")

    def _compile(self) -> None:
        """Compile for the place where it will be, to bytecode that is good whatever the times of the files."""
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(self.tree("cortex-common")), "-p", "/"]
        run([str(self.python), "-m", "compileall", *options, str(self.site)])

    def _move_engine(self, files: Iterable[Path]) -> None:
        site = self.tree("cortex-neuron") / self.site.relative_to(self.tree("cortex-common"))
        site.mkdir(parents=True)
        for path in files:
            shutil.move(path, site / path.name)


def run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run *command*; it fails, so does the build."""
    subprocess.run(command, check=True, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)


def drop_interpreter(module: Path) -> None:
    """Take the `#!` line out of a *module* that nobody runs as a script."""
    text = module.read_bytes()
    if text.startswith(b"#!"):
        module.write_bytes(text.partition(b"\n")[2])
        module.chmod(0o644)


def remove(paths: Iterable[Path]) -> None:
    """Delete the files at *paths*."""
    for path in list(paths):
        path.unlink()


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy a file to where it will be, with *mode*."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
