"""See to it that the processes of one replica end together, whichever of them ends first, and however.

vLLM's core takes seconds to say that a worker of its has died, and does not notice at all that the process which
started it was killed: it would keep its GPUs for ever. The neuron ends the whole group of a replica; `watch_group` is
for the case that neuron and replica are killed together.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]

_WATCH = """
import os, select, signal, sys
leader = int(sys.argv[1])
try:
    select.select([os.pidfd_open(leader)], [], [])
except ProcessLookupError:
    pass
os.killpg(leader, signal.SIGKILL)
"""
# Not of vLLM: it tidies up after Python's own multiprocessing, and its end changes nothing.
_TRACKER = "multiprocessing.resource_tracker"


def watch_group() -> subprocess.Popen[bytes] | None:
    """Start the process that ends this group after this process, which leads it; None where another does."""
    if os.getpid() != os.getpgrp() or not hasattr(os, "pidfd_open"):
        return None
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Relatives:
    """The processes that this one has started, and those that they have. Owns a descriptor of each."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        """Tell *on_end*, on the running loop, which of them ends, as soon as one does."""
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._watched: dict[int, str] = {}
        for process in psutil.Process().children(recursive=True) if hasattr(os, "pidfd_open") else ():
            self._watch(process)

    def _watch(self, process: psutil.Process) -> None:
        try:
            title = " ".join(process.cmdline()).strip()
            if _TRACKER in title or _WATCH in title:
                return
            descriptor = os.pidfd_open(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return  # it has ended before anything depended on it
        self._watched[descriptor] = f"{title[:40]} (pid {process.pid})"
        self._loop.add_reader(descriptor, self._ended, descriptor)

    def _ended(self, descriptor: int) -> None:
        name = self._watched[descriptor]
        self.close()
        self._on_end(name)

    def close(self) -> None:
        """Watch no longer: from now on they may end."""
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._watched.clear()
