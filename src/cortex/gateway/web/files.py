"""The dashboard's files, as they are in the package: read once, served with what keeps a page to itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from cortex.core.errors import RouteNotFound

ROOT = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
GUARDS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file with its media type and its entity tag."""

    content: bytes
    media_type: str
    etag: str


@cache
def files() -> dict[str, File]:
    """Return every file that is served, by its path below `static`; what is of no known type is not."""
    return {
        path.relative_to(ROOT).as_posix(): _read(path, _TYPES[path.suffix])
        for path in sorted(ROOT.rglob("*"))
        if path.suffix in _TYPES and path.is_file()
    }


def _read(path: Path, media_type: str) -> File:
    content = path.read_bytes()
    return File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:20]}"')


async def serve_page(request: Request) -> Response:
    """`GET /ui`: the one page; which part of it is shown is after the `#`, and is the browser's own affair."""
    return _answer(request, "index.html")


async def serve_file(request: Request) -> Response:
    """`GET /ui/static/{path}`. Raises RouteNotFound."""
    return _answer(request, request.path_params["path"])


def _answer(request: Request, name: str) -> Response:
    file = files().get(name)
    if file is None:
        raise RouteNotFound(f"the dashboard has no file {name[:200]!r}")
    # Asked for again each time, and sent again only when it is another: an upgrade is seen at once.
    headers = {**GUARDS, "etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
