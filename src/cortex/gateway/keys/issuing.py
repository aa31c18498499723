"""Making keys and telling of them: the same for the command line and for HTTP. The file stays `keys.file`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cortex.core.config import convert
from cortex.core.quantities import seconds_of
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key
from cortex.gateway.keys.ledger import Total
from cortex.gateway.keys.secret import Key, new_key

Totals = Mapping[str, Total]
"""What was used, by the id of the key."""

Uses = Mapping[str, tuple[Total | None, Total | None]]
"""What each key used in all, and in its budget's window, by its id."""


def issue(file: Path, given: Mapping[str, Any]) -> tuple[KeyEntry, Key]:
    """Make a key of the fields *given*, those of a `KeyEntry`, and put it into *file*; return it with its secret.

    Raises ConfigError naming the field that is wrong, or that the name is taken.
    """
    secret = new_key()
    made = {**given, "sha256": secret.digest.hex(), "created": datetime.now(UTC).replace(microsecond=0)}
    entry = convert(made, KeyEntry, where=f"key {str(given.get('name'))[:100]!r}")
    add_key(file, entry)
    return entry, secret


def moment(text: str, now: datetime) -> datetime:
    """Return the time that *text* means: from *now*, as `30d`, or a date or time of ISO 8601, by itself in UTC.

    Raises ValueError, also for what is not later than *now*.
    """
    try:
        found = now + timedelta(seconds=seconds_of(text))
    except OverflowError:
        raise ValueError(f"{text!r} is too far away") from None
    except ValueError:
        found = _date(text)
    if found <= now:
        raise ValueError(f"{text!r} is in the past")
    return found


def _date(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r}: expected a duration such as 30d, or a date such as 2031-01-31") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def windows(entries: Iterable[KeyEntry]) -> set[float]:
    """Return how many seconds back the budgets of *entries* count."""
    return {entry.budget_window_seconds for entry in entries if entry.budget_tokens is not None}


def uses(entries: Iterable[KeyEntry], ever: Totals, recent: Mapping[float, Totals]) -> Uses:
    """Return what the keys of *entries* have used: *ever*, and in the windows of budgets, by which *recent* is."""
    return {e.id: (ever.get(e.id), recent.get(e.budget_window_seconds, {}).get(e.id)) for e in entries}


def described(entry: KeyEntry, ever: Total | None, recent: Total | None) -> dict[str, Any]:
    """Return a key as plain values: never what lets one in, and None for limits and use that there are none of."""
    return {
        "name": entry.name,
        "id": entry.id,
        "scope": entry.scope,
        "models": list(entry.models),
        "requests_per_minute": entry.requests_per_minute,
        "tokens_per_minute": entry.tokens_per_minute,
        "concurrency": entry.concurrency,
        "budget_tokens": entry.budget_tokens,
        "budget_window_seconds": entry.budget_window_seconds if entry.budget_tokens is not None else None,
        "budget_used_tokens": recent.tokens if recent is not None else None,
        "created": _iso(entry.created),
        "expires": _iso(entry.expires),
        "last_used": _iso(datetime.fromtimestamp(ever.last_minute, UTC)) if ever is not None else None,
        "requests": ever.requests if ever is not None else None,
        "tokens": ever.tokens if ever is not None else None,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="minutes").replace("+00:00", "Z") if moment is not None else None
