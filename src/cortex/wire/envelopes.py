"""Which dialect a path speaks, and how it says that something went wrong: status, body and headers."""

from __future__ import annotations

from cortex.core.errors import CortexError
from cortex.wire import anthropic, ollama
from cortex.wire.errors import headers_of, openai_body

MESSAGES = "/v1/messages"
Headers = list[tuple[bytes, bytes]]


def is_anthropic(path: str) -> bool:
    """Whether clients of *path* speak Anthropic's dialect."""
    return path == MESSAGES or path.startswith(MESSAGES + "/")


def is_ollama(path: str) -> bool:
    """Whether clients of *path* speak Ollama's dialect."""
    return path.startswith("/api/")


def dialect_of(path: str) -> str:
    """Return the name of the dialect that clients of *path* speak."""
    if path == "/v1/responses":
        return "responses"
    return "anthropic" if is_anthropic(path) else "ollama" if is_ollama(path) else "openai"


def answer_of(error: CortexError, path: str, request_id: str) -> tuple[int, bytes, Headers]:
    """Return the status, the JSON body and the headers, but for its type, by which *error* is told on *path*."""
    headers = [*headers_of(error)]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if is_anthropic(path):
        return anthropic.status_of(error), anthropic.error_body(error, request_id), headers
    if is_ollama(path):
        return error.status, ollama.error_body(error), headers
    return error.status, openai_body(error), headers


def id_lines(path: str, request_id: str) -> bytes:
    """Return the lines of a head that name the request; Anthropic's clients look for one of their own."""
    told = request_id.encode()
    if is_anthropic(path):
        return b"x-request-id: %b\r\nrequest-id: %b\r\n" % (told, told)
    return b"x-request-id: %b\r\n" % told
