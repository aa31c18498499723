"""A throw-away Debian machine with systemd as its first process, to install packages on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INCLUDE = (
    "ca-certificates",
    "curl",
    "dbus",
    "libgomp1",
    "libstdc++6",
    "procps",
    "python3.11",
    "systemd",
    "systemd-sysv",
)
BOOT_SECONDS = 60.0
NEEDED = ("mmdebstrap", "systemd-nspawn", "nsenter", "lintian", "rpmlint", "rpm2cpio")


def why_not_here() -> str | None:
    """Return what keeps a machine from being made here, or None."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"these tests want {', '.join(missing)}: `packaging/prepare` installs them"
    return None if os.geteuid() == 0 else "only root makes machines"


def base(suite: str) -> Path:
    """Return an archive of a small *suite* of Debian; it is made once."""
    cache = Path(os.environ.get("CORTEX_CACHE") or "~/.cache/cortex").expanduser() / "packages"
    cache.mkdir(parents=True, exist_ok=True)
    known_by = hashlib.sha256(" ".join((suite, *INCLUDE)).encode()).hexdigest()[:12]
    archive = cache / f"{suite}-{known_by}.tar"
    if not archive.exists():
        made = archive.with_suffix(f".{os.getpid()}.tar")
        packages = f"--include={','.join(INCLUDE)}"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=apt", packages, suite, str(made)], check=True)
        made.rename(archive)
    return archive


class Machine:
    """A booted machine, and the way to run commands on it."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root, self._leader = root, leader

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Return what *command* prints as root of the machine. Raises CalledProcessError with it, too."""
        there: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(self._inside(command), **there, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start *command* as root of the machine."""
        return subprocess.Popen(
            self._inside(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self._leader}", "--all", "--", *command]

    def install(self, packages: Sequence[Path]) -> str:
        """Install *packages* with dpkg alone: nothing is fetched."""
        held = self.root / "packages"
        shutil.rmtree(held, ignore_errors=True)
        held.mkdir()
        for package in packages:
            shutil.copy(package, held)
        said = self.run("dpkg", "--install", *(f"/packages/{package.name}" for package in packages))
        shutil.rmtree(held)
        return said

    def shows(self, unit: str, name: str) -> str:
        """Return the property *name* of *unit*."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def wait_for(self, unit: str, name: str, value: str, seconds: float = 30) -> None:
        """Wait until the property *name* of *unit* is *value*."""
        try:
            self.wait_until(lambda: self.shows(unit, name), lambda now: now == value, seconds)
        except AssertionError as error:
            raise AssertionError(f"{unit}: {name}: {error}, not {value}\n{self.journal(unit)}") from None

    def wait_until(self, look: Callable[[], str], good: Callable[[str], bool], seconds: float = 30) -> str:
        """Return what *look* sees when it is *good*."""
        until = time.monotonic() + seconds
        while not good(seen := look()):
            if time.monotonic() > until:
                raise AssertionError(f"after {seconds:g} s it is still {seen!r}")
            time.sleep(0.1)
        return seen

    def journal(self, unit: str) -> str:
        """Return what *unit* logged."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)

    def files(self) -> set[str]:
        """Return the paths of all files that are not a matter of the moment."""
        fleeting = ("./proc", "./sys", "./run", "./tmp", "./dev", "./var/log", "./var/lib/dpkg", "./var/lib/systemd")
        prune = [part for path in fleeting for part in ("-path", path, "-o")][:-1]
        find = ["find", ".", "(", *prune, ")", "-prune", "-o", "-print"]
        return set(subprocess.check_output(find, cwd=self.root, text=True).splitlines())


@contextmanager
def booted(suite: str, root: Path) -> Iterator[Machine]:
    """Boot a machine in the empty directory *root*, without a network, and end it afterwards."""
    with tarfile.open(base(suite)) as archive:
        archive.extractall(root, filter="fully_trusted")
    name = f"cortex-test-{os.getpid()}"
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    env = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    with (root.parent / "console.log").open("wb") as console:
        nspawn = subprocess.Popen(
            [*command, f"--machine={name}", f"--directory={root}", "--boot"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        with nspawn:
            try:
                first = _first_process(nspawn)
            except BaseException:
                nspawn.kill()
                raise
            try:
                machine = Machine(root, first)
                machine.run("systemctl", "is-system-running", "--wait", timeout=BOOT_SECONDS)
                yield machine
            finally:
                os.kill(first, signal.SIGKILL)  # all that runs on the machine ends with its first process


def _first_process(nspawn: subprocess.Popen[bytes]) -> int:
    """Return the process that is the first one inside, when it is there and listens."""
    until = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < until and nspawn.poll() is None:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        listens = children and Path(f"/proc/{children[0]}/root/run/systemd/private").exists()
        if listens:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("the machine did not boot; console.log says why")
