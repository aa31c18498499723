"""Time as Ollama writes it: instants in RFC 3339, spans in nanoseconds, and `keep_alive` as Go reads durations."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from cortex.core.errors import BadRequest

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(?P<sign>[+-]?)(?P<terms>0|(?:{_TERM.pattern}){{1,8}})")


def instant(seconds: float) -> str:
    """Return the time *seconds* after 1970 in RFC 3339, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(milliseconds: float) -> int:
    """Return *milliseconds* as Ollama counts."""
    return round(milliseconds * 1e6)


def kept_seconds(keep_alive: float | str | None) -> float | None:
    """Return how long *keep_alive*, in seconds or like `"1h30m"`, asks for: infinity if negative. Raises BadRequest."""
    if keep_alive is None:
        return None
    seconds = _parsed(keep_alive) if isinstance(keep_alive, str) else float(keep_alive)
    return math.inf if seconds < 0 else seconds


def _parsed(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadRequest(
            f"keep_alive: {text[:40]!r} is no duration; use seconds as a number, or a text like '5m' or '1h30m'",
            param="keep_alive",
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _TERM.findall(match["terms"]))
    return -seconds if match["sign"] == "-" else seconds
