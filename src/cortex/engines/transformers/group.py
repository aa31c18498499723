"""The leader's side of a group of ranks: start them, tell them, watch them. The group lives and dies together.

A thread of its own watches, so that a collective that hangs hides nothing: a rank whose process ends is noticed at
once, one that does not answer Hello within SILENCE_SECONDS or does not carry out an order in its time, then. Whatever
it is, all ranks are killed, `on_death` is told once why, and no order is answered any more.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec

from cortex.engines.transformers.messages import (
    Answer,
    Broke,
    Done,
    Hello,
    Here,
    Join,
    Leave,
    Order,
    decode_answer,
    encode,
)
from cortex.wire.engine_api import Framer

SILENCE_SECONDS, LOADING_SILENCE_SECONDS = 5.0, 60.0
HELLO_SECONDS = 0.5
# What is computing now learns of a death by an error of its collective; the watch knows better whose it was.
CAUSE_SECONDS = 2.0

OnDeath = Callable[[str], None]
T = TypeVar("T", bound=Order)


class GroupFailed(Exception):
    """The group is over; the message says which rank, and why."""


@dataclass(eq=False)
class _Peer:
    """One other rank: its process, its socket, when it was heard of last, and the seconds it may be silent."""

    rank: int
    process: subprocess.Popen[bytes]
    stream: socket.socket
    heard: float
    framer: Framer = field(default_factory=Framer)
    sending: threading.Lock = field(default_factory=threading.Lock)


class Group:
    """Owns the processes of ranks 1 to n-1 and what they have answered."""

    def __init__(self, ranks: int, on_death: OnDeath) -> None:
        """Start the processes. Call it from a thread that lives as long as they: the kernel ends them with it."""
        self.ranks = ranks
        self._on_death = on_death
        self._ids = count(1)
        self._answers: dict[int, dict[int, float]] = {}
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._closed = False
        self._due: tuple[float, int] | None = None
        self._silence_seconds = LOADING_SILENCE_SECONDS
        self._directory = TemporaryDirectory(prefix="cortex-group-")
        self._peers = [self._start(rank) for rank in range(1, ranks)]
        self._watcher = threading.Thread(target=self._watch, name="group:watch", daemon=True)
        self._watcher.start()

    def _start(self, rank: int) -> _Peer:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-P", "-m", "cortex.engines.transformers.rank"]
        with theirs:
            process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return _Peer(rank, process, ours, time.monotonic())

    @property
    def pids(self) -> list[int]:
        """The processes of the other ranks, in order."""
        return [peer.process.pid for peer in self._peers]

    def join_order(self, rank: int, device: str, threads: int) -> Join:
        """Return what *rank* is told to form the group."""
        return Join(0, rank, self.ranks, self._directory.name, device, threads)

    def tell(self, order: T, seconds: float) -> int:
        """Give *order* to every other rank, and return its id, which `settle` waits for.

        It is to be carried out by all within *seconds*, whoever waits for it. Raises GroupFailed.
        """
        id_ = next(self._ids)
        with self._changed:
            self._answers[id_] = {}
            self._due = (time.monotonic() + seconds, id_)
        for peer in self._peers:
            own = msgspec.structs.replace(order, id=id_)
            self._send(peer, msgspec.structs.replace(own, rank=peer.rank) if isinstance(own, Join) else own)
        return id_

    def settle(self, id_: int) -> dict[int, float]:
        """Wait until every rank has carried out *id_*, and return their values by rank. Raises GroupFailed."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._answers[id_]) == len(self._peers))
            self._due = None
            answers = self._answers.pop(id_)
        if self._failure is not None:
            raise GroupFailed(self._failure)
        return answers

    def serving(self) -> None:
        """From now on no rank may be silent for longer than SILENCE_SECONDS."""
        self._silence_seconds = SILENCE_SECONDS

    def failure_after(self, reason: str) -> str:
        """Return why the group is over, which the watch is about to find; *reason* is what rank 0 saw of it."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, CAUSE_SECONDS)
        self._die(reason)
        return self._failure or reason

    def fail(self, reason: str) -> None:
        """End the group because of what rank 0 saw, unless the watch finds which other rank it comes from."""
        self.failure_after(reason)

    def close(self) -> None:
        """Let every rank go, and end those that do not."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
        for peer in self._peers:
            with suppress(GroupFailed):
                self._send(peer, Leave(0))
        self._reap(1.0)
        self._watcher.join()
        for peer in self._peers:
            peer.stream.close()
        self._directory.cleanup()

    def _send(self, peer: _Peer, order: Order) -> None:
        with peer.sending:
            try:
                peer.stream.sendall(encode(order))
            except OSError:
                raise GroupFailed(self._failure or f"rank {peer.rank} is gone") from None

    def _watch(self) -> None:
        """Read what the ranks say, and see to it that they say it in time."""
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer.stream, selectors.EVENT_READ, peer)
            greeted = 0.0
            while self._failure is None and not self._closed:
                for key, _ in selector.select(HELLO_SECONDS / 2):
                    self._read(key.data)
                now = time.monotonic()
                if now - greeted >= HELLO_SECONDS:
                    greeted = now
                    self._greet()
                self._check(now)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.stream.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._die(f"rank {peer.rank} of {self.ranks} {_end_of(peer.process)}")
            return
        peer.heard = time.monotonic()
        for payload in peer.framer.feed(data):
            self._hear(peer, decode_answer(payload))

    def _hear(self, peer: _Peer, answer: Answer) -> None:
        if isinstance(answer, Broke):
            self._die(f"rank {peer.rank} of {self.ranks} failed: {answer.message}")
        elif isinstance(answer, Done):
            with self._changed:
                if answer.id in self._answers:
                    self._answers[answer.id][peer.rank] = answer.value
                    self._changed.notify_all()
        else:
            assert isinstance(answer, Here)

    def _greet(self) -> None:
        """Ask who is there, but for those that are being told something at this moment."""
        for peer in self._peers:
            if peer.sending.acquire(blocking=False):
                try:
                    peer.stream.send(encode(Hello(0)), socket.MSG_DONTWAIT)
                except OSError:
                    pass  # it reads nothing, or is gone: its silence, or its end, is what counts
                finally:
                    peer.sending.release()

    def _check(self, now: float) -> None:
        for peer in self._peers:
            if now - peer.heard > self._silence_seconds:
                self._die(f"rank {peer.rank} of {self.ranks} did not answer for {now - peer.heard:.0f} s")
        with self._changed:
            late = self._due is not None and now > self._due[0] and self._failure is None
        if late:
            self._die(f"a step of the group of {self.ranks} ranks was not done in its time")

    def _die(self, reason: str) -> None:
        with self._changed:
            if self._failure is not None or self._closed:
                return
            self._failure = reason
            self._changed.notify_all()
        self._reap(0.0)
        self._on_death(reason)

    def _reap(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for peer in self._peers:
            with suppress(subprocess.TimeoutExpired):
                peer.process.wait(max(0.0, deadline - time.monotonic()))
            if peer.process.poll() is None:
                peer.process.kill()
        for peer in self._peers:
            peer.process.wait()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """Say how *process* ended, which it has or is about to."""
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return "closed its socket"
    if code >= 0:
        return f"exited with status {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
