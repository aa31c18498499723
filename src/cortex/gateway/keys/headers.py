"""Where a caller's limits stand, as lines of a head: OpenAI's names and durations, Anthropic's names and times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from math import ceil

from cortex.gateway.keys.caller import Standing
from cortex.gateway.keys.rates import Quota

_OPENAI = b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n"
_ANTHROPIC = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\nanthropic-ratelimit-%b-reset: %b\r\n"
)


def openai_lines(standing: Standing, now: float) -> bytes:
    """Return the lines `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; a reset is a duration such as `6m0s`.

    Source: the OpenAI API reference, "Rate limits in headers".
    """
    lines = b""
    for kind, quota in _quotas(standing):
        reset = duration(quota.reset_at - now).encode()
        lines += _OPENAI % (kind, quota.limit, kind, quota.remaining, kind, reset)
    return lines


def anthropic_lines(standing: Standing) -> bytes:
    """Return the lines `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; a reset is a time of RFC 3339.

    Source: the Anthropic API reference, "Rate limits: response headers".
    """
    lines = b""
    for kind, quota in _quotas(standing):
        reset = datetime.fromtimestamp(ceil(quota.reset_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        lines += _ANTHROPIC % (kind, quota.limit, kind, quota.remaining, kind, reset)
    return lines


def duration(seconds: float) -> str:
    """Return *seconds*, rounded up to whole ones, as OpenAI writes durations: `0s`, `59s`, `6m0s`, `24h0m0s`."""
    minutes, left = divmod(max(0, ceil(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _quotas(standing: Standing) -> Iterator[tuple[bytes, Quota]]:
    if standing.requests is not None:
        yield b"requests", standing.requests
    if standing.tokens is not None:
        yield b"tokens", standing.tokens
