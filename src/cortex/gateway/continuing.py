"""One streamed answer, and whether another replica goes on with it when its own breaks off."""

from __future__ import annotations

from cortex.core.errors import CortexError, PoisonRequest
from cortex.gateway.dialects import Asked
from cortex.wire.continuation import CannotContinue, Joined, Kept, RestDiffers, rest_of
from cortex.wire.engine_api import Usage

# A client that would rather hear of a failure says so in this header.
HEADER, NEVER = b"x-cortex-continue", b"never"
# The rest of an answer may break off too, and be gone on with in turn, so often.
MOST = 3
_FIRST_SERVER_ERROR = 500


class Continuing:
    """Owns what has gone out of the answer to *asked*, the request as the hub had it first."""

    def __init__(self, asked: Asked) -> None:
        self.count = 0
        self._asked, self._kept = asked, Kept()
        self._joined: Joined | None = None

    @property
    def pieces(self) -> int:
        """How many pieces of text have gone out."""
        return self._kept.pieces

    @property
    def error(self) -> CortexError | None:
        """What the node ended the answer with; its client has not heard of it."""
        return self._kept.error

    def take(self, events: bytes) -> bytes:
        """Return what of a node's whole *events* is for the client. Raises RestDiffers."""
        if self._joined is not None:
            events = self._joined.feed(events)
        return self._kept.take(events) if events else events

    def usage(self, usage: Usage) -> Usage:
        """Return the usage of the whole answer, where *usage* is what the last node counted."""
        return usage if self._joined is None else self._joined.usage(usage)

    def rest(self, error: CortexError) -> bytes:
        """Return the body of the request for what *error* left out. Raises CannotContinue."""
        if error.status < _FIRST_SERVER_ERROR or error.code == PoisonRequest.code:
            raise CannotContinue("another replica would refuse it too")
        if self.count == MOST:
            raise CannotContinue(f"it was gone on with {MOST} times")
        if not self._kept.begun:
            self._kept.error = None
            return self._asked.body
        rest = rest_of(self._asked.path, self._asked.body, self._kept, exact=isinstance(error, RestDiffers))
        self._kept.error, self._joined = None, Joined(rest)
        self.count += 1
        return rest.body
