from __future__ import annotations

import pytest

from cortex.gateway.keys.caller import Standing
from cortex.gateway.keys.headers import anthropic_lines, duration, openai_lines
from cortex.gateway.keys.rates import Quota

NOW = 1_800_000_000.0
BOTH = Standing(Quota(60, 59, NOW + 0.5), Quota(1000, 0, NOW + 360))


def pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    assert lines.endswith(b"\r\n")
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])]


def test_openai_clients_hear_durations() -> None:
    assert pairs(openai_lines(BOTH, NOW)) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"6m0s"),
    ]


def test_anthropic_clients_hear_times() -> None:
    assert pairs(anthropic_lines(BOTH)) == [
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"59"),
        (b"anthropic-ratelimit-requests-reset", b"2027-01-15T08:00:01Z"),
        (b"anthropic-ratelimit-tokens-limit", b"1000"),
        (b"anthropic-ratelimit-tokens-remaining", b"0"),
        (b"anthropic-ratelimit-tokens-reset", b"2027-01-15T08:06:00Z"),
    ]


def test_a_limit_that_is_not_there_is_not_told() -> None:
    assert openai_lines(Standing(), NOW) == anthropic_lines(Standing()) == b""
    assert [name for name, _ in pairs(openai_lines(Standing(tokens=BOTH.tokens), NOW))] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (0, "0s"), (0.01, "1s"), (59, "59s"), (59.5, "1m0s"), (3599, "59m59s"), (86_400, "24h0m0s")],
)
def test_a_duration_is_rounded_up(seconds: float, text: str) -> None:
    assert duration(seconds) == text
