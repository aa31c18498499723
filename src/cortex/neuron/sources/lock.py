"""One fetch at a time: locks that also hold between processes, so neurons on one host share a cache."""

from __future__ import annotations

import fcntl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from anyio import from_thread

RETRY_SECONDS = 0.05


@contextmanager
def lock_in_thread(path: Path) -> Iterator[None]:
    """Hold *path* in a worker thread; the wait ends when the caller is cancelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            from_thread.check_cancelled()
            time.sleep(RETRY_SECONDS)
        yield


@asynccontextmanager
async def lock(path: Path) -> AsyncIterator[None]:
    """Hold *path* in a task."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        while not _try_lock(file.fileno()):
            await anyio.sleep(RETRY_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    """Take the lock if it is free; closing the file releases it, and so does the end of the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
