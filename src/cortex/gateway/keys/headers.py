"""Where a caller's limits stand, as lines of a head: OpenAI's names and durations, Anthropic's names and times."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import ceil

from cortex.gateway.keys.caller import Standing
from cortex.gateway.keys.rates import Quota

_OPENAI_REQUESTS, _OPENAI_TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n" % (kind, kind, kind)
    for kind in (b"requests", b"tokens")
)
_ANTHROPIC = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\nanthropic-ratelimit-%b-reset: %b\r\n"
)


def openai_lines(standing: Standing, now: float) -> bytes:
    """Return the lines `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; a reset is a duration such as `6m0s`.

    Source: the OpenAI API reference, "Rate limits in headers".
    """
    requests, tokens = standing
    lines = _openai(_OPENAI_REQUESTS, requests, now) if requests is not None else b""
    return lines + _openai(_OPENAI_TOKENS, tokens, now) if tokens is not None else lines


def _openai(lines: bytes, quota: Quota, now: float) -> bytes:
    return lines % (quota.limit, quota.remaining, _told(ceil(quota.reset_at - now)))


@lru_cache(maxsize=1024)
def _told(seconds: int) -> bytes:
    return duration(seconds).encode()


def anthropic_lines(standing: Standing) -> bytes:
    """Return the lines `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; a reset is a time of RFC 3339.

    Source: the Anthropic API reference, "Rate limits: response headers".
    """
    requests, tokens = standing
    lines = _anthropic(b"requests", requests) if requests is not None else b""
    return lines + _anthropic(b"tokens", tokens) if tokens is not None else lines


def _anthropic(kind: bytes, quota: Quota) -> bytes:
    reset = datetime.fromtimestamp(ceil(quota.reset_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    return _ANTHROPIC % (kind, quota.limit, kind, quota.remaining, kind, reset)


def duration(seconds: float) -> str:
    """Return *seconds*, rounded up to whole ones, as OpenAI writes durations: `0s`, `59s`, `6m0s`, `24h0m0s`."""
    whole = max(0, ceil(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{left}s" if hours else f"{minutes}m{left}s"
