from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.serving.supervisor import Supervisor, supervisor_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(10)
        yield bound


def heard(ear: socket.socket) -> list[str]:
    return ear.recv(4096).decode().split("\n")


def test_what_is_told_is_a_datagram_of_lines(ear: socket.socket) -> None:
    supervisor = Supervisor(ear.getsockname())

    supervisor.ready("Serving on 127.0.0.1:1")
    supervisor.reloading(now_ns=5_000_999)
    supervisor.stopping(1.5, "Draining")

    assert heard(ear) == ["READY=1", "STATUS=Serving on 127.0.0.1:1"]
    assert heard(ear)[:2] == ["RELOADING=1", "MONOTONIC_USEC=5000"]
    assert heard(ear) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000", "STATUS=Draining"]


def test_a_status_of_several_lines_is_told_as_one(ear: socket.socket) -> None:
    """A line of its own would be another fact."""
    Supervisor(ear.getsockname()).ready("refused:\nMAINPID=1")

    assert heard(ear) == ["READY=1", "STATUS=refused: MAINPID=1"]


def test_an_address_in_the_abstract_namespace_is_understood() -> None:
    name = f"cortex-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0{name}")
        ear.settimeout(10)

        Supervisor(f"@{name}").ready("up")

        assert heard(ear)[0] == "READY=1"


async def test_the_watchdog_is_fed_several_times_before_it_bites(ear: socket.socket) -> None:
    feeding = Supervisor(ear.getsockname(), watchdog_seconds=0.3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feeding.feed)
        with anyio.fail_after(10):
            began = anyio.current_time()
            feeds = [await anyio.to_thread.run_sync(heard, ear) for _ in range(4)]
            took = anyio.current_time() - began
        tasks.cancel_scope.cancel()

    assert feeds == [["WATCHDOG=1"]] * 4
    assert took >= 0.3  # three pauses of a third: fed, not flooded


async def test_nobody_is_fed_who_does_not_watch(ear: socket.socket) -> None:
    with anyio.fail_after(10):
        await Supervisor(ear.getsockname()).feed()

    ear.setblocking(False)
    with pytest.raises(BlockingIOError):
        ear.recv(1)


def test_without_a_supervisor_nothing_is_told() -> None:
    with capture_logs() as logs:
        Supervisor().ready("up")

    assert logs == []


def test_a_supervisor_that_is_gone_costs_a_line_in_the_log(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Supervisor(str(tmp_path / "nobody")).ready("up")

    assert [(line["event"], line["told"]) for line in logs] == [("supervisor_not_told", "READY=1")]


async def test_the_environment_names_it_once(ear: socket.socket) -> None:
    """What this process starts must not speak in its name, nor feed its watchdog."""
    env = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    supervisor = supervisor_in(env, pid=7)

    with anyio.move_on_after(0.1):
        await supervisor.feed()

    assert env == {"PATH": "/bin"}
    assert heard(ear) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "100", "WATCHDOG_PID": "8"}]
)
async def test_a_watchdog_of_another_process_or_of_no_time_is_none(
    watchdog: dict[str, str], ear: socket.socket
) -> None:
    env = {"NOTIFY_SOCKET": ear.getsockname(), **watchdog}

    with anyio.fail_after(10):
        await supervisor_in(env, pid=7).feed()

    assert env == {}
