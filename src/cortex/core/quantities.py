"""Durations and sizes as people write them in a configuration: `90`, `"15m"`, `"24 GB"`, `"12GiB"`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d|)\s*\Z")
_SECONDS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(b|[kmgt]i?b?|)\s*\Z", re.IGNORECASE)
_POWERS = "bkmgt"


def seconds_of(value: float | str) -> float:
    """Return a duration in seconds; a bare number is one already. Raises ValueError."""
    seconds = _read_seconds(value) if isinstance(value, str) else float(value)
    if not math.isfinite(seconds):
        raise ValueError(f'{value!r}: expected seconds, or text such as "90s", "15m" or "2h"')
    return seconds


def bytes_of(value: int | str) -> int:
    """Return a size in bytes: a bare number counts MiB, as in all `_mb` keys; text has a unit. Raises ValueError."""
    if isinstance(value, int):
        return value << 20
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f'{value!r}: expected MiB, or text such as "24 GB" or "12GiB"')
    unit = match[2].lower() or "mi"
    unit_bytes: int = (1024 if "i" in unit else 1000) ** _POWERS.index(unit[0])
    return round(Fraction(match[1]) * unit_bytes)


def _read_seconds(text: str) -> float:
    match = _DURATION.match(text)
    return float(match[1]) * _SECONDS[match[2]] if match else math.nan
