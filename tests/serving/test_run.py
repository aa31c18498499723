from __future__ import annotations

import signal
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from starlette.applications import Starlette

from cortex.serving.protocol import Site
from cortex.serving.run import Listener, bind, serve
from cortex.serving.supervisor import Supervisor


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(10)
        yield bound


async def heard(ear: socket.socket) -> list[str]:
    return (await anyio.to_thread.run_sync(ear.recv, 4096)).decode().split("\n")


@pytest.mark.anyio
async def test_the_supervisor_hears_that_all_listeners_serve_then_that_the_process_leaves(ear: socket.socket) -> None:
    """Ready comes after the lifespan's beginning, which is the first look at the fleet."""
    begun, go = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        begun.set()
        await go.wait()
        yield

    site, other = Site({}, Starlette(lifespan=lifespan)), Site({}, Starlette())
    listeners = [Listener(bind("127.0.0.1", 0, "a"), site), Listener(bind("127.0.0.1", 0, "b"), other)]
    addresses = [listener.address for listener in listeners]
    supervisor = Supervisor(ear.getsockname(), watchdog_seconds=600)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, listeners, grace_seconds=7, supervisor=supervisor))
            await begun.wait()
            ear.setblocking(False)
            with pytest.raises(BlockingIOError):
                ear.recv(1)
            ear.settimeout(10)
            go.set()
            ready, fed = await heard(ear), await heard(ear)
            signal.raise_signal(signal.SIGTERM)
            stopping = await heard(ear)

    assert ready == ["READY=1", f"STATUS=Serving on {addresses[0]} and {addresses[1]}"]
    assert fed == ["WATCHDOG=1"]
    assert stopping[:2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=52000000"]
    assert stopping[2] == "STATUS=Draining: 0 requests, 7 s at most"


@asynccontextmanager
async def failing(_: Starlette) -> AsyncGenerator[None, None]:
    """A life that cannot begin."""
    raise OSError("no room")
    yield


@pytest.mark.anyio
async def test_who_cannot_start_never_says_that_it_is_ready(ear: socket.socket) -> None:
    listener = Listener(bind("127.0.0.1", 0, "a"), Site({}, Starlette(lifespan=failing)))

    with listener.socket, pytest.RaisesGroup(SystemExit), anyio.fail_after(10):
        await serve([listener], grace_seconds=0, supervisor=Supervisor(ear.getsockname()))

    ear.setblocking(False)
    with pytest.raises(BlockingIOError):
        ear.recv(1)
