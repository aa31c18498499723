"""Sessions of browsers: which key each was opened with. In memory alone, so a restart of the gateway ends them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from cortex.gateway.keys.secret import digest_of

COOKIE = "cortex_session"
# A page of another site can have the cookie sent, but not this header: a browser asks before it sends one across sites,
# and nobody here says yes.
HEADER = b"x-cortex-ui"
LIFETIME_SECONDS = 12 * 3600
MAX_SESSIONS = 1000


@dataclass(frozen=True, slots=True)
class _Session:
    key: bytes
    ends_at: float


class Sessions:
    """Owns the sessions, by the digest of what the browser has. Times are in seconds, and do not run backwards."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Session] = {}

    def open(self, key: bytes, now: float) -> str:
        """Begin a session for the holder of the key with the digest *key*; return what the browser is to keep."""
        self._sessions = {digest: each for digest, each in self._sessions.items() if each.ends_at > now}
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(32)
        self._sessions[digest_of(token.encode())] = _Session(key, now + LIFETIME_SECONDS)
        return token

    def key_of(self, headers: Iterable[tuple[bytes, bytes]], now: float) -> bytes | None:
        """Return the digest of the key that the sender of *headers* opened a session with; None if there is none."""
        digest = _offered(headers)
        session = self._sessions.get(digest) if digest is not None else None
        return session.key if session is not None and session.ends_at > now else None

    def close(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """End the session of the sender of *headers*, if it has one."""
        digest = _offered(headers)
        if digest is not None:
            self._sessions.pop(digest, None)


def _offered(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the digest of the token in *headers*, with names in lower case; None without the page's own header."""
    is_page, token = False, None
    for name, value in headers:
        if name == HEADER:
            is_page = True
        elif name == b"cookie":
            token = _cookie(value) or token
    return digest_of(token.encode()) if is_page and token else None


def _cookie(header: bytes) -> str | None:
    try:
        morsel = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None
