"""A group ends with its leader."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

LEADER = """
import subprocess, sys, time
from cortex.engines.vllm.guard import watch_group
watch_group()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_what_a_leader_started_does_not_outlive_it() -> None:
    with subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        watched = os.pidfd_open(int(leader.stdout.readline()))
        leader.send_signal(signal.SIGKILL)
        leader.wait(10)

        ended, _, _ = select.select([watched], [], [], 10)

        os.close(watched)
    assert ended


def test_a_process_that_leads_no_group_watches_none() -> None:
    code = "from cortex.engines.vllm.guard import watch_group; print(watch_group())"
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, process_group=None)

    assert told.stdout.strip() == b"None"
