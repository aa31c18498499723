"""Decide whether an image of a request may go on to an engine: where it is from, what it is, and how large. Pure.

An image's size is read from its header, which is all of it that is decoded: some kilobytes can unpack to gigabytes.
Sources: PNG 11.2.2, GIF89a 18, JPEG (ITU-T T.81) B.2.2, WebP container and lossless bitstream specifications.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from cortex.core.errors import BadRequest

CODE = "invalid_image_url"
MAX_URL_CHARS = 2048
_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,40}(?:;[a-z0-9=_-]{1,80}){0,4};base64,", re.IGNORECASE)
_NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOME = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet")
_NAT64 = IPv6Network("64:ff9b::/96")
_MAX_JPEG_SEGMENTS = 1000
# Start of frame, of any kind of coding; C4, C8 and CC are tables and extensions.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

Peek = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Picture:
    """What an embedded image says of itself."""

    kind: str
    width: int
    height: int


def check_image(url: str, *, part: str, allow_urls: bool, max_pixels: int, max_bytes: int) -> Picture | None:
    """Return what the `data:` image *url* is; None for an address that may be fetched, which needs *allow_urls*.

    Raises BadRequest naming *part* of the request. Whoever fetches an address must refuse redirects, and connect only
    to what `is_public` allows: what a name resolves to is not known here.
    """
    if url[:5].lower() != "data:":
        if not allow_urls:
            raise _refused(part, "only data: URLs are accepted, unless the gateway has [images] allow_urls = true")
        _check_address(url, part)
        return None
    header = _DATA.match(url)
    if header is None:
        raise _refused(part, "expected data:image/…;base64,…")
    encoded_chars = len(url) - header.end()
    if encoded_chars // 4 * 3 > max_bytes:
        raise _refused(part, f"the image is larger than {max_bytes} bytes")
    try:
        picture = _read(_peek(url, header.end()))
    except (IndexError, binascii.Error, ValueError):
        raise _refused(part, "the image is cut short or damaged") from None
    if picture is None:
        raise _refused(part, "expected a PNG, JPEG, GIF or WebP image")
    if not picture.width or not picture.height:
        raise _refused(part, f"the {picture.kind} image has no size")
    if picture.width * picture.height > max_pixels:
        raise _refused(part, f"{picture.width} x {picture.height} pixels are more than {max_pixels}")
    return picture


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether *address* is out on the internet, also when it wraps an IPv4 address that may not be."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        # Only 2000::/3 is given out; the rest of what is called global holds odd ways to write an IPv4 address.
        return address.is_global and int(address) >> 125 == 1
    return address.is_global and not address.is_multicast


def _refused(part: str, why: str) -> BadRequest:
    return BadRequest(f"{part}: {why}", param=part, code=CODE)


def _check_address(url: str, part: str) -> None:
    """Raise BadRequest unless *url* is a plain address on the internet, which every parser reads alike."""
    if len(url) > MAX_URL_CHARS or not url.isascii() or any(c <= " " or c in '\\"<>^`{|}\x7f' for c in url):
        raise _refused(part, "the URL has characters that must be escaped, or is too long")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _refused(part, "the URL is malformed") from None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not host:
        raise _refused(part, "expected http://host/… or https://host/… without a user")
    try:
        public = is_public(ip_address(host))
    except ValueError:
        public = _NAME.fullmatch(host) is not None and not host.endswith(_HOME)
    if not public:
        raise _refused(part, "the URL's host is not on the public internet")


def _peek(url: str, start: int) -> Peek:
    """Return what reads bytes of the base64 text that begins at *start* of *url*, without decoding the rest."""

    def peek(offset: int, count: int) -> bytes:
        first = offset // 3
        last = (offset + count + 2) // 3
        text = url[start + first * 4 : start + last * 4]
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        data = data[offset - first * 3 :][:count]
        if len(data) < count:
            raise IndexError(offset)
        return data

    return peek


def _read(peek: Peek) -> Picture | None:
    """Return what the header says; None if it is no image known here. Raises IndexError where it is cut short."""
    magic = peek(0, 12)
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        head = peek(12, 12)
        return Picture("PNG", _big(head[4:8]), _big(head[8:12])) if head[:4] == b"IHDR" else None
    if magic[:6] in (b"GIF87a", b"GIF89a"):
        return Picture("GIF", _little(magic[6:8]), _little(magic[8:10]))
    if magic.startswith(b"\xff\xd8\xff"):
        return _read_jpeg(peek)
    if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
        return _read_webp(peek(12, 18))
    return None


def _read_jpeg(peek: Peek) -> Picture | None:
    """Walk the segments to the frame header; what is before it, such as a camera's notes, may be long."""
    at = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        fill, marker = peek(at, 2)
        if fill != 0xFF:
            return None
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_FRAMES:
            frame = peek(at + 5, 4)
            return Picture("JPEG", _big(frame[2:4]), _big(frame[0:2]))
        else:
            length = _big(peek(at + 2, 2))
            if length < 2 or 0xD0 <= marker <= 0xDA:
                return None
            at += 2 + length
    return None


def _read_webp(chunk: bytes) -> Picture | None:
    kind, body = chunk[:4], chunk[8:]
    if kind == b"VP8X":
        return Picture("WebP", _little(body[4:7]) + 1, _little(body[7:10]) + 1)
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = _little(body[1:5])
        return Picture("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return Picture("WebP", _little(body[6:8]) & 0x3FFF, _little(body[8:10]) & 0x3FFF)
    return None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
