"""The main of a rank that is not the first: carry out the leader's orders, one after another, and end with it.

Started as `python -m cortex.engines.transformers.rank --fd N`. A thread of its own reads: it answers Hello at once, and
an end of file, however it came about, is the order to exit. So is the death of the leader's process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from cortex.engines.transformers.messages import (
    Broke,
    Done,
    Hello,
    Here,
    Join,
    Leave,
    LoadShard,
    Order,
    Reduce,
    ResetCache,
    SelfCheck,
    Step,
    Unload,
    decode_order,
    encode,
)
from cortex.wire.engine_api import Framer

if TYPE_CHECKING:
    from cortex.engines.transformers.member import Member

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with the process *parent*, which started it. Linux alone knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)  # it was gone before it could be asked for


class Rank:
    """The socket to the leader, and the orders that wait."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._rank = 0

    def run(self) -> None:
        """Carry out orders until the leader is gone."""
        threading.Thread(target=self._read, name="rank:read", daemon=True).start()
        from cortex.engines.transformers.member import Member  # torch takes seconds, and Hello is answered meanwhile

        member = Member()
        while True:
            order = self._orders.get()
            try:
                value = self._carry_out(order, member)
            except Exception as error:  # noqa: BLE001 - the main of a child process: whatever it is, the leader is told
                traceback.print_exc()
                self._send(Broke(order.id, f"{type(error).__name__}: {error}"))
            else:
                self._send(Done(order.id, value))

    def _carry_out(self, order: Order, member: Member) -> float:
        match order:
            case Join():
                self._rank = order.rank
                member.join(order)
            case SelfCheck():
                return member.self_check()
            case Reduce():
                return member.reduce(order.size_bytes, order.rounds)
            case LoadShard():
                member.load(order.plan, self._rank)
            case Step():
                member.step(order.admitted, order.cancelled)
            case ResetCache():
                member.reset()
            case Unload():
                member.unload()
            case Leave() | Hello():
                os._exit(0)
        return 0.0

    def _read(self) -> None:
        framer = Framer()
        while data := self._receive():
            for payload in framer.feed(data):
                order = decode_order(payload)
                if isinstance(order, Hello):
                    self._send(Here(order.id))
                elif isinstance(order, Leave):
                    os._exit(0)
                else:
                    self._orders.put(order)
        os._exit(0)

    def _receive(self) -> bytes:
        try:
            return self._stream.recv(1 << 16)
        except OSError:
            return b""

    def _send(self, answer: Done | Broke | Here) -> None:
        with self._sending:
            try:
                self._stream.sendall(encode(answer))
            except OSError:
                os._exit(0)  # the leader is gone


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="cortex-rank", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited end of the socket pair")
    parser.add_argument("--parent", type=int, required=True, help="the process to end with")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the neuron's to handle
    Rank(socket.socket(fileno=arguments.fd)).run()


if __name__ == "__main__":
    main()
