"""See to it that a process group ends with its leader, however that ends.

vLLM's engine core does not notice that the process which started it was killed, and would keep its GPUs for ever. The
neuron ends the whole group of a replica; this is for the case that neuron and replica are killed together.
"""

from __future__ import annotations

import os
import subprocess
import sys

_WATCH = """
import os, select, signal, sys
leader = int(sys.argv[1])
try:
    select.select([os.pidfd_open(leader)], [], [])
except ProcessLookupError:
    pass
os.killpg(leader, signal.SIGKILL)
"""


def watch_group() -> subprocess.Popen[bytes] | None:
    """Start the process that ends this group after this process, which leads it; None where another does."""
    if os.getpid() != os.getpgrp() or not hasattr(os, "pidfd_open"):
        return None
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
