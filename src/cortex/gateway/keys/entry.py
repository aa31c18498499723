"""One key of the file: its name, its digest, what it may use and how much of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cortex.core.quantities import seconds_of
from cortex.gateway.keys.secret import handle_of

Scope = Literal["inference", "admin"]
NAME_PATTERN = r"^(?!ctx_)[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
MODEL_PATTERN = r"^[A-Za-z0-9*._:@+/-]{1,200}\Z"
SHORTEST_BUDGET_WINDOW_SECONDS, LONGEST_BUDGET_WINDOW_SECONDS = 60.0, 366 * 86_400.0

Count = Annotated[int, Meta(ge=1, le=2**53)]
Moment = Annotated[datetime, Meta(tz=True)]


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An entry of `[[keys]]`. A limit that is not given does not apply; no `models` means all of them.

    `models` are ids or aliases, in which `*` stands for anything. `budget_tokens` may be used in any `budget_window`,
    given as `"24h"` or in seconds: what was used returns when it is so old, not at midnight.
    """

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    created: Moment | None = None
    expires: Moment | None = None
    scope: Scope = "inference"
    models: tuple[Annotated[str, Meta(pattern=MODEL_PATTERN)], ...] = ()
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    budget_tokens: Count | None = None
    budget_window: float | str = "24h"

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key."""
        return bytes.fromhex(self.sha256)

    @property
    def id(self) -> str:
        """The public id: the first digits of the digest, from which nobody can make a key."""
        return handle_of(self.digest).hex()

    @property
    def budget_window_seconds(self) -> float:
        """How far back use counts against the budget. Raises ValueError."""
        seconds = seconds_of(self.budget_window)
        if not SHORTEST_BUDGET_WINDOW_SECONDS <= seconds <= LONGEST_BUDGET_WINDOW_SECONDS:
            raise ValueError(f"{self.budget_window!r}: expected from one minute to 366 days")
        return seconds
