"""Which requests a listener takes by the names in them: the pairs of `Host` and `Origin` that have passed before."""

from __future__ import annotations

import socket
from collections.abc import Collection

from cortex.serving.exchange import Exchange
from cortex.serving.origin import check_origin

MAX_REMEMBERED = 256


class HostCheck:
    """A `Site`'s check. Clients send the same pair for ever, so each costs a look-up after the first time."""

    def __init__(self, listen: str, allowed: Collection[str]) -> None:
        self._listen = listen
        self._allowed = (*allowed, listen)
        self._passed: set[tuple[bytes | None, bytes | None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Raise BadRequest or PermissionDenied unless *exchange* may come from where it says."""
        pair = exchange.header(b"host"), exchange.header(b"origin")
        if pair in self._passed:
            return
        host, origin = (None if value is None else value.decode("latin-1") for value in pair)
        error = check_origin(host, origin, self._listen, self._allowed)
        if error is not None:
            raise error
        if len(self._passed) >= MAX_REMEMBERED:
            self._passed.clear()
        self._passed.add(pair)


def own_names() -> tuple[str, ...]:
    """Return the names that this machine has for itself; others may know it by more."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return tuple(dict.fromkeys((name, short, f"{short}.local")))
