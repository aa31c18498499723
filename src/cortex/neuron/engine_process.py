"""The parent's side of one engine process: start it, talk to it, notice when it dies, end it.

Replies are matched by id, every wait has a deadline, and a reply that nobody waits for any more is dropped. When the
process is gone, by whatever cause, all its requests fail at once and `died` is set with its last words.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count

import anyio
from anyio.abc import Process, UNIXSocketStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from cortex.core.errors import EngineFailed, LoadFailed
from cortex.core.logging import get_logger
from cortex.wire.engine_api import (
    Abort,
    Chunk,
    EngineSpec,
    Estimate,
    Estimated,
    Failed,
    Finished,
    Framer,
    FromEngine,
    Generate,
    Kind,
    Load,
    Loaded,
    Measure,
    Ping,
    Pong,
    Progress,
    Ready,
    ReplicaInfo,
    Shutdown,
    ToEngine,
    Tokenize,
    decode_from_engine,
    encode_message,
)
from cortex.wire.errors import ErrorBody, RemoteError

log = get_logger(__name__)

START_SECONDS = 120.0
EXIT_SECONDS = 5.0
PING_SECONDS = 1.0
LAST_WORDS = 20
# A reader that far behind is not reading: its request is failed rather than its answer kept in memory.
MAX_INBOX = 20_000

Inbox = MemoryObjectSendStream[FromEngine]


class EngineProcess:
    """One child process. Owns its socket, its inboxes (one a request), and its heartbeat."""

    def __init__(self, engine: str, model: str, *, env: Mapping[str, str], heartbeat_seconds: float) -> None:
        self._engine, self._model = engine, model
        self._env = {**os.environ, **env}
        self._heartbeat_seconds = heartbeat_seconds
        self._inboxes: dict[str, Inbox] = {}
        self._ids = count(1)
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._unended_line = b""
        self._process: Process
        self._stream: UNIXSocketStream
        self._write_lock = anyio.Lock()
        self._silent_seconds = 0.0
        self._loading = self._refused = False
        self.died = anyio.Event()
        self.ready = anyio.Event()
        self.engine_version = ""
        self.device_kinds: tuple[str, ...] = ()
        self.reason: str | None = None

    @property
    def started(self) -> bool:
        """Whether there is, or was, a child."""
        return hasattr(self, "_process")

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def run(self) -> None:
        """Start the child and serve it until it is gone or this is cancelled; the child never outlives this call."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # -P: what lies in the working directory must not be taken for a library.
        command = [
            sys.executable,
            "-P",
            "-m",
            "cortex.engines.host",
            "--fd",
            str(theirs.fileno()),
            "--engine",
            self._engine,
        ]
        try:
            with anyio.CancelScope(shield=True):  # cut off in the middle, it could leave a child without a parent
                self._process = await anyio.open_process(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            ours.close()
            self._refused = True
            self._end(f"the engine process could not be started: {error}")
            return
        finally:
            theirs.close()
        try:
            async with await UNIXSocketStream.from_socket(ours) as self._stream, anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_output, name="engine:output")
                tasks.start_soon(self._watch_heart, name="engine:heart")
                tasks.start_soon(self._ping, name="engine:ping")
                try:
                    await self._read_messages()
                except anyio.get_cancelled_exc_class():
                    self.kill()  # nobody wants it any more, and it has nothing to save; a send that began ends with it
                    raise
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._reap()

    async def load(self, spec: EngineSpec, on_progress: Callable[[Progress], None], seconds: float) -> ReplicaInfo:
        """Load *spec*. Raises LoadFailed, or EngineFailed if the process dies of it or takes longer than *seconds*."""
        await self.until_ready()
        self._loading = True
        try:
            async with self._conversation(seconds) as talk:
                await self._send(Load(talk.id, spec))
                async for message in talk:
                    if isinstance(message, Progress):
                        on_progress(message)
                    elif isinstance(message, Loaded):
                        return message.info
                    elif isinstance(message, Failed):
                        raise LoadFailed(message.message)
        finally:
            self._loading, self._silent_seconds = False, 0.0
        raise EngineFailed(self.reason or "the engine process ended while loading")

    async def estimate(self, spec: EngineSpec) -> Estimate:
        """Return what *spec* would take. Raises LoadFailed or EngineFailed."""
        await self.until_ready()
        async with self._conversation(60.0) as talk:
            await self._send(Measure(talk.id, spec))
            async for message in talk:
                if isinstance(message, Estimated):
                    return message.estimate
                if isinstance(message, Failed):
                    raise LoadFailed(message.message)
        raise EngineFailed(self.reason or "the engine process ended while estimating")

    async def generate(
        self, kind: Kind, body: bytes, choices: int
    ) -> AsyncGenerator[Progress | Chunk | Finished, None]:
        """Yield what the engine answers, Finished last. Leaving early aborts the request in the engine.

        Raises RemoteError with the engine's own status and code, or EngineFailed if the process dies.
        """
        async with self._conversation(math.inf) as talk:
            await self._send(Generate(talk.id, kind, body, choices))
            async for message in talk:
                if isinstance(message, Progress | Chunk):
                    yield message
                elif isinstance(message, Finished):
                    talk.over = True
                    yield message
                    return
                elif isinstance(message, Failed):
                    talk.over = True
                    raise _remote(message)
        if not self.died.is_set():
            raise EngineFailed("the answer was read too slowly, and is given up")
        raise EngineFailed(self.reason or "the engine process ended in the middle of the answer")

    async def tokenize(self, body: bytes) -> bytes:
        """Return the engine's answer to a tokenize request. Raises RemoteError or EngineFailed."""
        async with self._conversation(60.0) as talk:
            await self._send(Tokenize(talk.id, body))
            async for message in talk:
                if isinstance(message, Chunk):
                    return message.data
                if isinstance(message, Failed):
                    raise _remote(message)
        raise EngineFailed(self.reason or "the engine process ended while tokenizing")

    async def stop(self) -> None:
        """Ask the child to leave, and end it if it does not."""
        if not self.died.is_set() and self.ready.is_set():
            with anyio.move_on_after(EXIT_SECONDS):
                await self._send(Shutdown(""))
                await self.died.wait()
        self.kill()

    def kill(self) -> None:
        """End the child's whole process group now."""
        if self.started and self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _conversation(self, seconds: float) -> _Conversation:
        return _Conversation(self, f"{next(self._ids)}", seconds)

    async def until_ready(self) -> None:
        """Wait for the child's first message, from when on its version is known. Raises LoadFailed or EngineFailed."""
        with anyio.move_on_after(START_SECONDS):
            await self.ready.wait()
        if self.died.is_set():
            refusal = LoadFailed if self._refused else EngineFailed
            raise refusal(self.reason or "the engine process ended before it was ready")
        if not self.ready.is_set():
            raise EngineFailed(f"the engine process was not ready within {START_SECONDS:.0f} s")

    async def _send(self, message: ToEngine) -> None:
        try:
            data = encode_message(message)
        except OverflowError:
            raise LoadFailed(f"a number in the spec of {self._model} has more than 64 bits") from None
        try:
            async with self._write_lock:
                # Half a message would garble all that follow: a send that began is ended, or ends with the process.
                with anyio.CancelScope(shield=True):
                    await self._stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise EngineFailed(self.reason or "the engine process is gone") from None

    async def _read_messages(self) -> None:
        framer = Framer()
        while True:
            try:
                data = await self._stream.receive()
                for payload in framer.feed(data):
                    self._deliver(decode_from_engine(payload))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            except EngineFailed as error:
                self.reason = error.message
                self.kill()
                return

    def _deliver(self, message: FromEngine) -> None:
        self._silent_seconds = 0.0
        if isinstance(message, Ready):
            self.engine_version, self.device_kinds = message.engine_version, message.device_kinds
            self.ready.set()
        elif isinstance(message, Failed) and not message.id:
            self.reason, self._refused = message.message, True
        elif not isinstance(message, Pong) and (inbox := self._inboxes.get(message.id)) is not None:
            try:
                inbox.send_nowait(message)
            except anyio.WouldBlock:
                log.warning("reader_too_slow", model=self._model, held=MAX_INBOX)
                self._inboxes.pop(message.id).close()

    async def _watch_heart(self) -> None:
        """Kill a child whose loop no longer turns; a load may hold its interpreter for as long as a load may take."""
        await self.ready.wait()
        while self._silent_seconds <= self._heartbeat_seconds:
            await anyio.sleep(PING_SECONDS)
            # Counted in turns of our own: while this process itself stands still, the child is not silent.
            self._silent_seconds += 0.0 if self._loading else PING_SECONDS
        self.reason = f"the engine process did not answer for {self._silent_seconds:.0f} s"
        log.error("engine_hung", model=self._model, pid=self.pid, silent_seconds=self._silent_seconds)
        self.kill()

    async def _ping(self) -> None:
        """Give the child something to answer, unless it loads and may be unable to."""
        await self.ready.wait()
        while not self.died.is_set():
            await anyio.sleep(PING_SECONDS)
            if self._loading:
                continue
            try:
                await self._send(Ping(""))
            except EngineFailed:
                return

    async def _read_output(self) -> None:
        """Log what the child prints, and keep its last words."""
        assert self._process.stdout is not None
        async for data in self._process.stdout:
            *lines, self._unended_line = (self._unended_line + data).split(b"\n")
            for line in lines:
                self._hear(line)

    def _hear(self, raw: bytes) -> None:
        line = raw.decode(errors="replace").strip()
        if line:
            self._words.append(line)
            log.debug("engine_output", model=self._model, pid=self.pid, line=line)

    async def _reap(self) -> None:
        with anyio.move_on_after(EXIT_SECONDS):
            await self._process.wait()
        self.kill()
        code = await self._process.wait()
        self._kill_group()  # what the child had started itself, and left behind
        with anyio.move_on_after(0.5):
            await self._read_output()
        self._hear(self._unended_line)
        await self._process.aclose()
        self._end(self.reason or _obituary(code))

    def _end(self, reason: str) -> None:
        words = f"; last words: {' | '.join(list(self._words)[-3:])}" if self._words and self.reason is None else ""
        self.reason = reason + words
        self.died.set()
        self.ready.set()
        for inbox in self._inboxes.values():
            inbox.close()
        self._inboxes.clear()

    @property
    def last_words(self) -> Sequence[str]:
        """The last lines that the child printed."""
        return tuple(self._words)


class _Conversation:
    """One request to the child: an inbox for its id, a deadline, and an Abort when it is left early."""

    def __init__(self, process: EngineProcess, id_: str, seconds: float) -> None:
        self._process, self.id = process, id_
        self._deadline = anyio.current_time() + seconds
        self._receive: MemoryObjectReceiveStream[FromEngine]
        self.over = False

    async def __aenter__(self) -> _Conversation:
        if self._process.died.is_set():
            raise EngineFailed(self._process.reason or "the engine process is gone")
        send, self._receive = anyio.create_memory_object_stream[FromEngine](MAX_INBOX)
        self._process._inboxes[self.id] = send
        return self

    async def __aexit__(self, *_: object) -> None:
        inbox = self._process._inboxes.pop(self.id, None)
        self._receive.close()
        if inbox is not None:
            inbox.close()
        if not self.over and not self._process.died.is_set():
            with anyio.move_on_after(EXIT_SECONDS, shield=True):
                try:
                    await self._process._send(Abort(self.id))
                except EngineFailed:
                    pass  # it died meanwhile: nothing is left to abort

    def __aiter__(self) -> _Conversation:
        return self

    async def __anext__(self) -> FromEngine:
        try:
            with anyio.fail_after(max(0.0, self._deadline - anyio.current_time())):
                return await self._receive.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
        except TimeoutError:
            raise EngineFailed("the engine process did not answer in time") from None


def _remote(failed: Failed) -> RemoteError:
    kind = "invalid_request_error" if failed.status < 500 else "server_error"
    return RemoteError(failed.status, ErrorBody(failed.message, kind, failed.code, failed.param))


def _obituary(code: int) -> str:
    if code < 0:
        try:
            return f"the engine process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the engine process was ended by signal {-code}"
    return f"the engine process exited with status {code}"
