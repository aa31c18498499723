"""W3C `traceparent`: which trace of its client's a request belongs to, and the span that the gateway is in it.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re

_VALUE = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16


def valid_traceparent(offered: bytes | None) -> str | None:
    """Return *offered* as it may be passed on, or None if it is not one: whoever sent it is then not followed.

    Of a later version than 00, only the parts that version 00 knows are passed on, as that version.
    """
    found = _VALUE.fullmatch(offered) if offered is not None and len(offered) <= 512 else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or trace == _NO_TRACE or span == _NO_SPAN or (version == b"00" and more):
        return None
    return b"-".join((b"00", trace, span, flags if version == b"00" else b"%02x" % (int(flags, 16) & 1))).decode()


def parts(traceparent: str) -> tuple[int, int, int]:
    """Return the ids of the trace and of the parent span in a valid *traceparent*, and its flags."""
    _, trace, span, flags = traceparent.split("-")
    return int(trace, 16), int(span, 16), int(flags, 16)
