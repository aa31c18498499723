"""What `cortex serve` and `neuron serve` share: their options, where configuration is found, how they end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click

DIRECTORIES: Sequence[Path] = (Path(), Path("/etc/cortex"))

until_stdin_closes_option = click.option(
    "--until-stdin-closes", is_flag=True, hidden=True, help="Stop gracefully when stdin reaches its end."
)


def find_config(name: str, directories: Sequence[Path] = DIRECTORIES) -> Path | None:
    """Return the first file called *name* in *directories*, or None."""
    return next((path for path in places(name, directories) if path.is_file()), None)


def places(name: str, directories: Sequence[Path] = DIRECTORIES) -> list[Path]:
    """Return where *name* is looked for, in order."""
    return [directory / name for directory in directories]


def stop_when_stdin_closes() -> None:
    """Watch stdin from a thread of its own and send this process SIGTERM at its end.

    Whoever started us holds the other end, so we never outlive it, not even when it is killed.
    """
    threading.Thread(target=_watch, args=(sys.stdin.fileno(),), name="stdin", daemon=True).start()


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
