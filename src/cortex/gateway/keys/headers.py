"""Where a caller's limits stand, as headers: OpenAI's names and durations, Anthropic's names and times."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil

from cortex.gateway.keys.caller import Standing
from cortex.gateway.keys.rates import Quota

Headers = list[tuple[bytes, bytes]]


def openai_headers(standing: Standing, now: float) -> Headers:
    """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; a reset is a duration such as `6m0s`.

    Source: the OpenAI API reference, "Rate limits in headers".
    """
    headers: Headers = []
    for kind, quota in _quotas(standing):
        headers += [
            (b"x-ratelimit-limit-" + kind, b"%d" % quota.limit),
            (b"x-ratelimit-remaining-" + kind, b"%d" % quota.remaining),
            (b"x-ratelimit-reset-" + kind, duration(quota.reset_at - now).encode()),
        ]
    return headers


def anthropic_headers(standing: Standing) -> Headers:
    """Return `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; a reset is a time of RFC 3339.

    Source: the Anthropic API reference, "Rate limits: response headers".
    """
    headers: Headers = []
    for kind, quota in _quotas(standing):
        reset = datetime.fromtimestamp(ceil(quota.reset_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers += [
            (b"anthropic-ratelimit-" + kind + b"-limit", b"%d" % quota.limit),
            (b"anthropic-ratelimit-" + kind + b"-remaining", b"%d" % quota.remaining),
            (b"anthropic-ratelimit-" + kind + b"-reset", reset.encode()),
        ]
    return headers


def duration(seconds: float) -> str:
    """Return *seconds*, rounded up to whole ones, as OpenAI writes durations: `0s`, `59s`, `6m0s`, `24h0m0s`."""
    minutes, left = divmod(max(0, ceil(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _quotas(standing: Standing) -> list[tuple[bytes, Quota]]:
    pairs = ((b"requests", standing.requests), (b"tokens", standing.tokens))
    return [(kind, quota) for kind, quota in pairs if quota is not None]
