"""A request on its way through the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cortex.fleet.affinity import Keys
from cortex.fleet.doors import Ticket
from cortex.fleet.view import Spot
from cortex.sim.trace import Arrival

Outcome = Literal["answered", "refused", "broken"]


@dataclass(eq=False, slots=True, kw_only=True)
class Visit(Ticket):
    """A ticket and what became of it; times in seconds since the start, None for what has not happened.

    `cold` is one that came when no replica was ready. `served_at` is when it last got a slot.
    """

    arrival: Arrival
    cold: bool = False
    spot: Spot | None = None
    served_at: float | None = None
    first_token_at: float | None = None
    cached_tokens: int = 0
    prefill_seconds: float = 0.0
    retries: int = 0
    outcome: Outcome | None = None

    @property
    def has_told(self) -> bool:
        """Whether its client has seen some of the answer, so that nobody else can begin it anew."""
        return self.arrival.stream and self.first_token_at is not None


def visit_of(arrival: Arrival, model: str) -> Visit:
    """Return the visit of *arrival* to *model*, which may be what an alias stands for."""
    keys = Keys(session=arrival.session) if arrival.session is not None else None
    return Visit(model, arrival.at, None if keys is None else lambda: keys, arrival=arrival)
