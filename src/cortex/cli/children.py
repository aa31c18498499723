"""The processes of `cortex up`: started with a pipe they die by, restarted, stopped in order, never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import click

from cortex.cli.failures import Failure

LAST_LINES = 12
MAX_RESTARTS, RESTART_WINDOW_SECONDS = 5, 60.0
_POLL_SECONDS = 0.1


@dataclass
class Child:
    """One program: its process of the moment, where it logs, and when it had to be started again."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    log: Path
    restarts: list[float] = field(default_factory=list)


class Children:
    """Owns the processes; as a context it stops them, the last one first.

    Each leads a session of its own, so that the terminal's Ctrl-C reaches only us, and holds the other end of a pipe
    to us as its stdin: when we die of whatever, it reads the end of that pipe and stops.
    """

    def __init__(self, directory: Path, env: Mapping[str, str], grace_seconds: float) -> None:
        self._directory, self._env, self._grace = directory, env, grace_seconds
        self._children: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, *arguments: str) -> Child:
        """Start `python -m cortex.cli ARGUMENTS` as *name*."""
        # -P: a click.py in the current directory is not ours.
        command = [sys.executable, "-P", "-m", "cortex.cli", *arguments, "--until-stdin-closes"]
        path = self._directory / f"{name}.log"
        path.write_bytes(b"")
        child = Child(name, command, self._spawn(command, path), path)
        self._children.append(child)
        return child

    def _spawn(self, command: Sequence[str], path: Path) -> subprocess.Popen[bytes]:
        with path.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=dict(self._env), start_new_session=True
            )

    def keep_up(self) -> NoReturn:
        """Start again whatever ends, until interrupted; raise Failure once one of them ends too often."""
        while True:
            for child in self._children:
                if child.process.poll() is not None:
                    self._restart(child)
            time.sleep(_POLL_SECONDS)

    def _restart(self, child: Child) -> None:
        now = time.monotonic()
        child.restarts = [at for at in child.restarts if now - at < RESTART_WINDOW_SECONDS]
        if len(child.restarts) >= MAX_RESTARTS:
            often = f"{MAX_RESTARTS + 1} times within {RESTART_WINDOW_SECONDS:.0f} s"
            raise Failure(f"the {child.name} ended {often}: {obituary(child)}")
        _say(f"{obituary(child)}\nstarting the {child.name} again")
        child.restarts.append(now)
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.process = self._spawn(child.command, child.log)

    def check(self, within_seconds: float = 0.0) -> None:
        """Raise Failure, with its last words, if one of them has ended or does *within_seconds*."""
        deadline = time.monotonic() + within_seconds
        while True:
            for child in self._children:
                if child.process.poll() is not None:
                    raise Failure(obituary(child))
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop them one after the other; an interrupt, or more than the grace, kills instead."""
        try:
            for child in reversed(self._children):
                self._stop(child)
        except KeyboardInterrupt:
            _say("killing what is left")
        finally:
            for child in self._children:
                _kill(child)

    def _stop(self, child: Child) -> None:
        if child.process.poll() is not None:
            return
        child.process.terminate()
        _say(f"stopping the {child.name}")
        try:
            child.process.wait(self._grace)
        except subprocess.TimeoutExpired:
            _say(f"the {child.name} is still busy after {self._grace:.0f} s: killing it")
            _kill(child)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be what went away
        click.echo(text, err=True)


def _kill(child: Child) -> None:
    """Make sure that *child* is gone. Its pipe closes only now: its end is a second request to stop."""
    if child.process.poll() is None:
        os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()
    if child.process.stdin is not None:
        child.process.stdin.close()


def obituary(child: Child) -> str:
    """Return how *child* ended, and the last lines of its log."""
    status = child.process.returncode
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    lines = _tail(child.log)
    words = "\n".join(["its last words:", *lines]) if lines else "it said nothing."
    return f"the {child.name} {how}; {words}\n(all of it: {child.log})"


def _tail(path: Path) -> list[str]:
    """Return the last lines of the file at *path*."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 16_384))
        lines = file.read().decode(errors="replace").splitlines()
    return [f"  {line}" for line in lines[-LAST_LINES:]]
