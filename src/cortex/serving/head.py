"""What the head of a request says, judged as strictly as its framing deserves, and known again when it comes again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cortex.core.errors import BadRequest, MethodNotAllowed, PayloadTooLarge, RequestError, UnsupportedMediaType

Headers = list[tuple[bytes, bytes]]
MAX_BODY_BYTES = 64 << 20
MAX_LENGTH_DIGITS = 12
MAX_KNOWN_BYTES = 8 << 10

_MORE_THAN_AN_ANSWER = (b"expect", b"upgrade", b"transfer-encoding")
_LENGTH_LINE = re.compile(rb"\r\n(?i:content-length):[ \t]*([0-9]+)[ \t]*(?=\r\n)")


class _ExpectationFailed(RequestError):
    status, code = 417, "expectation_failed"


class _VersionNotSupported(RequestError):
    status, code = 505, "http_version_not_supported"


class Head:
    """A request without its body; names of headers are in lower case, and `header(name)` finds the first such, or None.

    Clients send the same head again and again. So a connection keeps the last one, and whoever finds something out
    about it may leave that in `memo`, for the next request that has it.
    """

    __slots__ = ("header", "headers", "http_11", "keep_alive", "memo", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: Headers | None = None,
        *,
        http_11: bool = True,
        keep_alive: bool = True,
    ) -> None:
        self.method, self.path, self.query, self.headers = method, path, query, headers or []
        self.http_11, self.keep_alive = http_11, keep_alive
        self.memo: Any = None
        self.header: Callable[[bytes], bytes | None] = dict(reversed(self.headers)).get

    def require_json(self) -> None:
        """Raise UnsupportedMediaType unless the body is declared as JSON, or not at all.

        A browser sends `text/plain` and forms across sites without asking; nothing here accepts them.
        """
        declared = self.header(b"content-type")
        if declared is None or declared == b"application/json":
            return
        if declared.split(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType("content-type: expected application/json")
        if declared.lower().partition(b"charset=")[2].strip(b' "') not in (b"", b"utf-8", b"utf8", b"us-ascii"):
            raise UnsupportedMediaType("content-type: expected charset utf-8")


def check_framing(version: str, method: bytes, headers: Headers) -> None:
    """Refuse what llhttp lets pass. Source: RFC 9112 sections 3.2, 6.1, 6.3; RFC 9110 section 10.1.1."""
    if version not in ("1.0", "1.1"):
        raise _VersionNotSupported("only HTTP/1.1 is spoken here")
    if method == b"CONNECT":
        raise MethodNotAllowed("CONNECT is not offered")
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    hosts = values.get(b"host", ())
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest("expected exactly one Host header")
    lengths, codings = values.get(b"content-length", ()), values.get(b"transfer-encoding", ())
    if len(lengths) > 1 or (lengths and codings):
        raise BadRequest("expected one Content-Length or one Transfer-Encoding")
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        raise BadRequest("transfer-encoding: only chunked is supported")
    if lengths:
        if not lengths[0].isdigit():
            raise BadRequest("content-length: not a number")
        if len(lengths[0]) > MAX_LENGTH_DIGITS or int(lengths[0]) > MAX_BODY_BYTES:
            raise PayloadTooLarge(MAX_BODY_BYTES)
    if any(coding.strip().lower() != b"identity" for coding in values.get(b"content-encoding", ())):
        raise UnsupportedMediaType("content-encoding: only identity is supported")
    if any(expected.strip().lower() != b"100-continue" for expected in values.get(b"expect", ())):
        raise _ExpectationFailed("expect: only 100-continue is supported")


class KnownHead:
    """A head that was judged, as it was on the wire: before and after the digits of its Content-Length."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head, self._before, self._after = head, before, after

    def body_in(self, data: bytes) -> bytes | None:
        """Return the body in *data* if that is this head, but for its length, and one whole body; else None."""
        at, after = len(self._before), self._after
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", at, at + MAX_LENGTH_DIGITS + 1)
        start = end + len(after)
        # With an empty length, or one in any other form, it is another head: the parser will tell.
        if end < 0 or not data[at:end].isdigit() or not data.startswith(after, end):
            return None
        return data[start:] if len(data) - start == int(data[at:end]) else None


def known(head: Head, data: bytes) -> KnownHead | None:
    """Return *head*, which *data* begins with, as it is known again; None if it asks for more than to be answered."""
    end = data.find(b"\r\n\r\n") + 4
    length = _LENGTH_LINE.search(data, 0, end)
    plain = head.http_11 and head.keep_alive and not any(map(head.header, _MORE_THAN_AN_ANSWER))
    if length is None or not plain or end > MAX_KNOWN_BYTES:
        return None
    return KnownHead(head, data[: length.start(1)], data[length.end(1) : end])
