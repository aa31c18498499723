"""The parent's side of one engine process: start it, ask it, notice when it dies or hangs, end it.

Every wait has a deadline. When the process is gone, by whatever cause, all its requests fail at once and `died` is set
with its last words.
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

import anyio
from anyio.abc import Process, UNIXSocketStream

from cortex.core.errors import EngineFailed, LoadFailed
from cortex.core.logging import get_logger
from cortex.neuron.engine_channel import Channel
from cortex.wire.engine_api import (
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
    Tokenize,
    decode_from_engine,
)
from cortex.wire.errors import ErrorBody, RemoteError

log = get_logger(__name__)

START_SECONDS = 120.0
ASK_SECONDS = 60.0
EXIT_SECONDS = 5.0
PING_SECONDS = 1.0
# A process that was killed and is still there hangs in a driver: nobody waits for it any longer.
REAP_SECONDS = 20.0
LAST_WORDS = 20


class EngineProcess:
    """One child process. Owns its life, its heartbeat and its last words; the channel owns its socket."""

    def __init__(
        self, engine: str, model: str, *, env: Mapping[str, str], heartbeat_seconds: float, is_spare: bool = False
    ) -> None:
        self._engine, self._is_spare = engine, is_spare
        self._env = {**os.environ, **env}
        self._heartbeat_seconds = heartbeat_seconds
        self._channel = Channel(model, self._give_up)
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._unended_line = b""
        self._process: Process
        self._silent_seconds = 0.0
        self._loading = self._refused = self._dismissed = False
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

    def adopt(self, model: str) -> None:
        """Be the process of *model* from now on; until then it was a spare."""
        self._channel.model = model

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
            *(["--spare"] if self._is_spare else []),
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
            stream = self._channel.stream = await UNIXSocketStream.from_socket(ours)
            async with stream, anyio.create_task_group() as tasks:
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
            async with self._channel.conversation(seconds) as talk:
                await self._channel.send(Load(talk.id, spec))
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
        async with self._channel.conversation(ASK_SECONDS) as talk:
            await self._channel.send(Measure(talk.id, spec))
            async for message in talk:
                if isinstance(message, Estimated):
                    return message.estimate
                if isinstance(message, Failed):
                    raise LoadFailed(message.message)
        raise EngineFailed(self.reason or "the engine process ended while estimating")

    async def generate(
        self, kind: Kind, body: bytes, choices: int, request_id: str = ""
    ) -> AsyncGenerator[Progress | Chunk | Finished, None]:
        """Yield what the engine answers, Finished last. Leaving early aborts the request in the engine.

        Raises RemoteError with the engine's own status and code, or EngineFailed if the process dies, which says
        whether it was at work on this request.
        """
        async with self._channel.conversation(math.inf, request_id, confirms_abort=True) as talk:
            await self._channel.send(Generate(talk.id, kind, body, choices))
            async for message in talk:
                if isinstance(message, Progress | Chunk):
                    yield message
                elif isinstance(message, Finished):
                    yield message
                    return
                elif isinstance(message, Failed):
                    raise _remote(message)
        if not self.died.is_set():
            raise EngineFailed("the answer was read too slowly, and is given up", code="reader_too_slow")
        reason = self.reason or "the engine process ended in the middle of the answer"
        at_work = talk.has_begun and not self._dismissed
        raise EngineFailed(reason, at_work=at_work, code=None if talk.has_begun else "model_not_ready")

    async def tokenize(self, body: bytes) -> bytes:
        """Return the engine's answer to a tokenize request. Raises RemoteError or EngineFailed."""
        async with self._channel.conversation(ASK_SECONDS) as talk:
            await self._channel.send(Tokenize(talk.id, body))
            answer = b""
            async for message in talk:
                if isinstance(message, Chunk):
                    answer = message.data
                elif isinstance(message, Finished):
                    return answer
                elif isinstance(message, Failed):
                    raise _remote(message)
        raise EngineFailed(self.reason or "the engine process ended while tokenizing")

    async def stop(self) -> None:
        """Ask the child to leave, and end it if it does not."""
        if not self.died.is_set() and self.ready.is_set():
            with anyio.move_on_after(EXIT_SECONDS):
                await self._channel.send(Shutdown(""))
                await self.died.wait()
        self.kill()

    def kill(self) -> None:
        """End the child's whole process group now; what it was at work on is not to blame for that."""
        self._dismissed = True
        self._kill_child()

    def _kill_child(self) -> None:
        if self.started and self._process.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def until_ready(self) -> None:
        """Wait for the child's first message, from when on its version is known. Raises LoadFailed or EngineFailed."""
        with anyio.move_on_after(START_SECONDS):
            await self.ready.wait()
        if self.died.is_set():
            refusal = LoadFailed if self._refused else EngineFailed
            raise refusal(self.reason or "the engine process ended before it was ready")
        if not self.ready.is_set():
            raise EngineFailed(f"the engine process was not ready within {START_SECONDS:.0f} s")

    async def _read_messages(self) -> None:
        framer = Framer()
        while True:
            try:
                data = await self._channel.stream.receive()
                for payload in framer.feed(data):
                    self._deliver(decode_from_engine(payload))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            except EngineFailed as error:
                self._give_up(error.message)
                return

    def _deliver(self, message: FromEngine) -> None:
        self._silent_seconds = 0.0
        if isinstance(message, Ready):
            self.engine_version, self.device_kinds = message.engine_version, message.device_kinds
            self.ready.set()
        elif isinstance(message, Failed) and not message.id:
            self.reason, self._refused = message.message, True
        elif not isinstance(message, Pong):
            self._channel.deliver(message)

    def _give_up(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._kill_child()

    async def _watch_heart(self) -> None:
        """Kill a child whose loop no longer turns; a load may hold its interpreter for as long as a load may take."""
        await self.ready.wait()
        while self._silent_seconds <= self._heartbeat_seconds:
            await anyio.sleep(PING_SECONDS)
            # Counted in turns of our own: while this process itself stands still, the child is not silent.
            self._silent_seconds += 0.0 if self._loading else PING_SECONDS
        log.error("engine_hung", model=self._channel.model, pid=self.pid, silent_seconds=self._silent_seconds)
        self._give_up(f"the engine process did not answer for {self._silent_seconds:.0f} s")

    async def _ping(self) -> None:
        """Give the child something to answer, unless it loads and may be unable to."""
        await self.ready.wait()
        while not self.died.is_set():
            await anyio.sleep(PING_SECONDS)
            if self._loading:
                continue
            try:
                await self._channel.send(Ping(""))
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
            log.debug("engine_output", model=self._channel.model, pid=self.pid, line=line)

    async def _reap(self) -> None:
        """Wait for the end of the child, kill what does not end, and fail all that still wait for it."""
        with anyio.move_on_after(EXIT_SECONDS):
            await self._process.wait()
        self._kill_child()
        with anyio.move_on_after(REAP_SECONDS):
            await self._process.wait()
        code = self._process.returncode
        self._kill_group()  # what the child had started itself, and left behind
        with anyio.move_on_after(0.5):
            await self._read_output()
        self._hear(self._unended_line)
        if code is None:
            log.error("engine_stuck", model=self._channel.model, pid=self.pid, waited_seconds=REAP_SECONDS)
        else:
            await self._process.aclose()
        self._end(self.reason or _obituary(code))

    def _end(self, reason: str) -> None:
        words = f"; last words: {' | '.join(list(self._words)[-3:])}" if self._words and self.reason is None else ""
        self.reason = reason + words
        self.died.set()
        self.ready.set()
        self._channel.end(self.reason)

    @property
    def last_words(self) -> Sequence[str]:
        """The last lines that the child printed."""
        return tuple(self._words)


def _remote(failed: Failed) -> RemoteError:
    kind = "invalid_request_error" if failed.status < 500 else "server_error"
    return RemoteError(failed.status, ErrorBody(failed.message, kind, failed.code, failed.param))


def _obituary(code: int | None) -> str:
    if code is None:
        return "the engine process was killed and does not end"
    if code < 0:
        try:
            return f"the engine process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the engine process was ended by signal {-code}"
    return f"the engine process exited with status {code}"
