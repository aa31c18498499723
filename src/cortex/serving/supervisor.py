"""Tell whoever supervises this process how it is: datagrams, as sd_notify(3) and sd_watchdog_enabled(3) say."""

from __future__ import annotations

import math
import socket
from collections.abc import MutableMapping

import anyio

from cortex.core.logging import get_logger

log = get_logger(__name__)

FEEDS_PER_WATCHDOG = 3
"""How often the watchdog is fed in the time after which it bites: one late turn of the loop is no reason to die."""


class Supervisor:
    """Who listens on the socket called *address*; without one, what is told is heard by nobody.

    *watchdog_seconds* is how long it waits for a sign of life before it takes the process for hung; infinite if it
    does not.
    """

    def __init__(self, address: str | None = None, watchdog_seconds: float = math.inf) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds

    def ready(self, status: str) -> None:
        """Say that the process serves, or serves again after `reloading`; *status* is a line for whoever asks."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self, now_ns: int) -> None:
        """Say that the configuration is being read again; *now_ns* is the monotonic clock's time. `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now_ns // 1000}", "STATUS=Reading the configuration again")

    def stopping(self, seconds: float, status: str) -> None:
        """Say that the process is on its way out, and may need so many *seconds* for it, whatever was said before."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}", f"STATUS={status}")

    async def feed(self) -> None:
        """Feed the watchdog from the event loop until cancelled: a loop that hangs lets it starve."""
        while math.isfinite(self._watchdog_seconds):
            self._tell("WATCHDOG=1")
            await anyio.sleep(self._watchdog_seconds / FEEDS_PER_WATCHDOG)

    def _tell(self, *facts: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(" ".join(fact.split()) for fact in facts).encode(), self._address)
        except OSError as error:
            log.warning("supervisor_not_told", told=facts[0], error=str(error))


def supervisor_in(env: MutableMapping[str, str], pid: int) -> Supervisor:
    """Return the supervisor that *env* names to the process *pid*.

    It is taken out of *env*: what this process starts must not speak in its name.
    """
    address = env.pop("NOTIFY_SOCKET", None)
    microseconds, whose = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", str(pid))
    watched = whose == str(pid) and microseconds.isdecimal() and int(microseconds) > 0
    return Supervisor(address, int(microseconds) / 1e6 if watched else math.inf)
