"""The token that a gateway shows to its nodes: how it is sent, and how it is checked."""

from __future__ import annotations

from hmac import compare_digest

from cortex.core.errors import ConfigError

SHORTEST_TOKEN_CHARS = 16


def check_token(token: str, key: str) -> str:
    """Return *token* if it can be sent and not be guessed; else raise ConfigError naming *key*, never the token."""
    if len(token) < SHORTEST_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{key}: expected at least {SHORTEST_TOKEN_CHARS} printable ASCII characters without spaces")
    return token


def authorization(token: str) -> bytes:
    """Return the value of the `authorization` header that shows *token*."""
    return b"Bearer " + token.encode()


def header_line(token: str | None) -> str:
    """Return the line of a request's head that shows *token*; nothing without one."""
    return f"authorization: {authorization(token).decode()}\r\n" if token else ""


def is_authorized(header: bytes | None, token: str) -> bool:
    """Whether *header*, the value of `authorization`, shows *token*; an empty token lets nobody in. Constant-time."""
    scheme, _, shown = (header or b"").partition(b" ")
    return bool(token) and scheme.lower() == b"bearer" and compare_digest(shown.strip(), token.encode())
