"""Real processes on free loopback ports: a `Fleet` of neurons and a gateway, ended by id when a test is over."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

START_SECONDS = 60.0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_pair() -> int:
    """Return a port that was free a moment ago, and the next one too: metrics listen there."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
        return port


T = TypeVar("T")


def until(what: str, ask: Callable[[], T | None], seconds: float = START_SECONDS) -> T:
    """Return the first true answer of *ask*; fail naming *what* if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


@dataclass
class Daemon:
    """One started program: its process, its address, its log."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log_path: Path
    has_joined: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        return httpx2.get(self.url + path, timeout=10, trust_env=False).raise_for_status().json()

    def answers(self) -> bool:
        """Return whether it is there; a neuron with a token, or that has joined, says no more than that to us."""
        if self.has_joined:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0
        try:
            return httpx2.get(self.url + "/health", timeout=2, trust_env=False).status_code in (200, 401)
        except httpx2.HTTPError:
            return False

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == name]

    def told(self, name: str, **fields: object) -> dict[str, Any]:
        """Return the first event called *name* that has *fields*, once it is in the log."""
        return until(name, lambda: next((e for e in self.events(name) if fields.items() <= e.items()), None), 5)

    def stop(self, sig: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(seconds)


@dataclass
class Fleet:
    """Neurons and a gateway in one directory."""

    directory: Path
    daemons: dict[str, Daemon] = field(default_factory=dict)

    def neuron(self, name: str, *, port: int | None = None, config: str = "", has_joined: bool = False) -> Daemon:
        port = port or free_port()
        path = self.directory / f"{name}.toml"
        path.write_text(f'port = {port}\nlog = "info,cortex=debug"\nstate = "{name}-state"\n{config}\n')
        return self._start(name, port, "neuron", "serve", "--config", str(path), has_joined=has_joined)

    def gateway(self, models: str, neurons: dict[str, int], *, config: str = "", name: str = "gateway") -> Daemon:
        port = self.daemons[name].port if name in self.daemons else free_port()
        nodes = "".join(f'[[neurons]]\nname = "{n}"\nendpoint = "http://127.0.0.1:{p}"\n' for n, p in neurons.items())
        (self.directory / "models.toml").write_text(models)
        path = self.directory / f"{name}.toml"
        path.write_text(
            f'[gateway]\nlisten = "127.0.0.1:{port}"\nmetrics_listen = "127.0.0.1:{free_port()}"\n'
            f'log = "info,cortex=debug"\nstate = "{name}-state"\n{config}\n{nodes}'
        )
        return self._start(name, port, "cortex", "serve", "--config", str(path))

    def _start(self, name: str, port: int, *command: str, has_joined: bool = False) -> Daemon:
        log_path = self.directory / f"{name}.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        daemon = self.daemons[name] = Daemon(name, process, port, log_path, has_joined)

        def ready() -> bool:
            assert process.poll() is None, f"{name} ended: {log_path.read_text()[-2000:]}"
            return daemon.answers()

        until(f"{name} answers", ready)
        return daemon

    def close(self) -> None:
        for daemon in reversed(self.daemons.values()):
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.process.wait(15)
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()


def engine_pids(neuron: Daemon) -> list[int]:
    """Return the engine processes of *neuron*."""
    children = psutil.Process(neuron.process.pid).children(recursive=True)
    return [child.pid for child in children if "cortex.engines.host" in " ".join(child.cmdline())]


def alive(pid: int) -> bool:
    """Whether *pid* runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
