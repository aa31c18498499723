"""The main of an engine process: read messages from the neuron, drive one engine, answer.

Started as `python -m cortex.engines.host --fd N --engine NAME`, where N is one end of a Unix socket pair. The process
ends with its neuron: an end of file on the socket, however it came about, is the order to exit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points

import anyio
import msgspec
from anyio.abc import TaskGroup, UNIXSocketStream
from anyio.lowlevel import checkpoint_if_cancelled
from setproctitle import setproctitle

from cortex.core.errors import RequestError
from cortex.engines.base import Engine, Event, LoadError
from cortex.wire.engine_api import (
    Abort,
    Chunk,
    Estimated,
    Failed,
    Finished,
    Framer,
    FromEngine,
    Generate,
    Load,
    Loaded,
    Measure,
    Ping,
    Pong,
    Progress,
    Ready,
    Shutdown,
    Started,
    Timings,
    ToEngine,
    Tokenize,
    Usage,
    decode_to_engine,
    encode_message,
)


class Slots:
    """Sequences that may decode at once; waiters are served in order, each taking as many as it needs."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    async def acquire(self, wanted: int) -> int:
        """Wait for *wanted* slots, at most all there are, and return how many were taken."""
        wanted = min(wanted, self.total)
        if self._waiting or self.free < wanted:
            turn = (wanted, anyio.Event())
            self._waiting.append(turn)
            try:
                await turn[1].wait()
            except anyio.get_cancelled_exc_class():
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    self.release(0)  # who stood behind a wide request may fit now
                else:
                    self.release(wanted)
                raise
        else:
            self.free -= wanted
        return wanted

    def release(self, taken: int) -> None:
        """Give *taken* slots back and wake whoever fits now, first come first."""
        self.free += taken
        while self._waiting and self._waiting[0][0] <= self.free:
            wanted, turn = self._waiting.popleft()
            self.free -= wanted
            turn.set()


class Host:
    """One engine and the socket to the neuron. Owns the running requests; a request is a task with a cancel scope."""

    def __init__(self, engine: Engine, stream: UNIXSocketStream, *, is_spare: bool = False) -> None:
        """A process that *is_spare* warms its engine up while it waits for a model."""
        self._is_spare = is_spare
        self._engine = engine
        self._stream = stream
        self._write_lock = anyio.Lock()
        self._running: dict[str, anyio.CancelScope] = {}
        self._slots = Slots(1)
        self._tasks: TaskGroup

    async def run(self) -> None:
        """Serve until the neuron says Shutdown or is gone."""
        framer = Framer()
        await self._send(Ready("", self._engine.name, self._engine.version, self._engine.device_kinds))
        async with anyio.create_task_group() as self._tasks:
            if self._is_spare:
                self._tasks.start_soon(anyio.to_thread.run_sync, self._engine.warm_up)
            while True:
                try:
                    data = await self._stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    os._exit(0)  # the neuron is gone: nobody is left to clean up for
                for payload in framer.feed(data):
                    self._dispatch(decode_to_engine(payload))

    def _dispatch(self, message: ToEngine) -> None:
        match message:
            case Abort():
                if (scope := self._running.get(message.id)) is not None:
                    scope.cancel()
            case Ping():
                self._tasks.start_soon(self._send, Pong(message.id))
            case Shutdown():
                self._tasks.start_soon(self._shut_down)
            case _:
                scope = self._running[message.id] = anyio.CancelScope()
                self._tasks.start_soon(self._serve, message, scope)

    async def _shut_down(self) -> None:
        """Leave at once: the end of a process returns its memory more surely than any destructor."""
        for scope in self._running.values():
            scope.cancel()
        await self._engine.close()
        os._exit(0)

    async def _serve(self, message: Load | Measure | Generate | Tokenize, scope: anyio.CancelScope) -> None:
        """Answer one message; whatever goes wrong costs this request only."""
        try:
            with scope:
                match message:
                    case Load():
                        await self._load(message)
                    case Measure():
                        await self._send(Estimated(message.id, await self._engine.estimate(message.spec)))
                    case Generate():
                        await self._generate(message)
                    case Tokenize():
                        await self._send(Chunk(message.id, await self._engine.tokenize(message)))
                        await self._send(Finished(message.id, "stop", Usage(), Timings()))
        except RequestError as error:
            await self._send(Failed(message.id, error.status, error.message, error.code, error.param))
        except LoadError as error:
            await self._send(Failed(message.id, 503, str(error), "model_load_failed"))
        except MemoryError:
            traceback.print_exc()
            await self._send(Failed(message.id, 503, "the engine ran out of memory", "out_of_memory"))
        except Exception as error:  # noqa: BLE001 - the boundary of a request in the main of a child process
            traceback.print_exc()
            await self._send(Failed(message.id, 500, f"{type(error).__name__}: {error}", "engine_error"))
        finally:
            self._running.pop(message.id, None)

    async def _load(self, message: Load) -> None:
        setproctitle(f"cortex.engines.host --engine {self._engine.name} {message.spec.model}")
        loop = asyncio.get_running_loop()

        def on_progress(stage: str, done: int, total: int) -> None:
            progress = Progress(message.id, stage, done, total)
            loop.call_soon_threadsafe(self._tasks.start_soon, self._send, progress)

        info = await self._engine.load(message.spec, on_progress)
        self._slots = Slots(info.slots)
        await self._send(Loaded(message.id, info))

    async def _generate(self, message: Generate) -> None:
        arrived, queued = time.perf_counter(), 0.0
        prompt_tokens = completion_tokens = 0
        finished: Finished | None = None
        try:
            taken = await self._slots.acquire(message.choices)
            queued = time.perf_counter() - arrived
            try:
                await checkpoint_if_cancelled()  # an abort may have come together with its request
                await self._send(Started(message.id))
                async with _closed(self._engine.generate(message)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            finished = event
                            continue
                        if isinstance(event, Progress):
                            prompt_tokens = event.total
                        else:
                            completion_tokens += 1
                        await self._send(event)
            finally:
                self._slots.release(taken)
        except anyio.get_cancelled_exc_class():
            aborted = Finished(message.id, "aborted", Usage(prompt_tokens, completion_tokens), Timings())
            await self._finish(finished or aborted, queued)
            raise
        if finished is None:
            raise RuntimeError("the engine ended a request without finishing it")
        await self._finish(finished, queued)

    async def _finish(self, finished: Finished, queued_seconds: float) -> None:
        """Send the end of a request, which an abort that crosses it does not stop."""
        timings = msgspec.structs.replace(finished.timings, queue_ms=queued_seconds * 1000)
        with anyio.CancelScope(shield=True):
            await self._send(msgspec.structs.replace(finished, timings=timings))

    async def _send(self, message: FromEngine) -> None:
        async with self._write_lock:
            # Half a message would garble all that follow, so an abort waits for the one that is being written.
            with anyio.CancelScope(shield=True):
                try:
                    await self._stream.send(encode_message(message))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    os._exit(0)  # the neuron is gone, as the reading side is about to find out


@asynccontextmanager
async def _closed(events: AsyncGenerator[Event, None]) -> AsyncIterator[AsyncGenerator[Event, None]]:
    """Close *events* in the end, and let that take its time even if the request is aborted."""
    try:
        yield events
    finally:
        with anyio.CancelScope(shield=True):
            await events.aclose()


def load_engine(name: str) -> Engine:
    """Return a new engine called *name*. Raises LoadError if it is not installed or cannot be imported."""
    found = {entry.name: entry for entry in entry_points(group="cortex.engines")}
    if name not in found:
        raise LoadError(f"no engine is called {name!r}; installed: {', '.join(sorted(found))}")
    try:
        engine: Engine = found[name].load()()
    except ImportError as error:
        raise LoadError(f"engine {name!r} cannot be imported ({error}): pip install 'cortex-fleet[{name}]'") from error
    return engine


async def _main(fd: int, name: str, is_spare: bool) -> int:
    async with await UNIXSocketStream.from_socket(socket.socket(fileno=fd)) as stream:
        try:
            engine = load_engine(name)
        except LoadError as error:
            await stream.send(encode_message(Failed("", 503, str(error), "engine_missing")))
            return 3
        await Host(engine, stream, is_spare=is_spare).run()
    return 0


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="cortex-engine", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of the socket pair")
    parser.add_argument("--engine", required=True, help="the engine to drive, by entry point name")
    parser.add_argument("--spare", action="store_true", help="no model is known yet")
    arguments = parser.parse_args()
    if arguments.spare:
        setproctitle(f"cortex engine {arguments.engine}, spare")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the neuron's to handle
    sys.exit(anyio.run(_main, arguments.fd, arguments.engine, arguments.spare))


if __name__ == "__main__":
    main()
