"""A group ends with its leader."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys

import psutil

from cortex.engines.vllm.guard import Relatives

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


def test_a_grandchild_that_ends_is_named_at_once() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0).wait()"

    async def kill_one() -> str:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=subprocess.PIPE)
        try:
            while not (grandchildren := psutil.Process(child.pid).children()):
                await asyncio.sleep(0.01)
            relatives = Relatives(told.set_result)
            grandchildren[0].kill()
            async with asyncio.timeout(10):
                name = await told
            relatives.close()
            return name.replace(str(grandchildren[0].pid), "PID")
        finally:
            child.stdin.close()  # type: ignore[union-attr]
            await child.wait()

    assert asyncio.run(kill_one()).endswith("(pid PID)")


def test_who_is_watched_no_longer_may_end() -> None:
    async def let_one_end() -> list[str]:
        told: list[str] = []
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
        Relatives(told.append).close()
        child.kill()
        await child.wait()
        await asyncio.sleep(0)
        return told

    assert asyncio.run(let_one_end()) == []
