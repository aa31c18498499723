"""Decide who may wait for a model: the arithmetic of the bounded queue at its door."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from cortex.core.errors import CortexError, Overloaded

LONGEST_RETRY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Door:
    """What a request finds when it arrives at *model*.

    `flights` are served in the `slots` of all its ready replicas together, each for about `seconds_each` (0 while that
    is not known); `waiting` are in front of it. `depth` is how many may wait, `patience_seconds` how long.
    """

    model: str
    waiting: int
    flights: int
    slots: int
    seconds_each: float
    depth: int
    patience_seconds: float


def admit(door: Door) -> CortexError | None:
    """Return None if one more request may come in, to be served or to wait; else the refusal.

    It is refused if the queue is full, and if its turn cannot come before its patience ends: then waiting is in vain.
    While no replica is ready nobody knows how long a turn takes, and only the depth counts.
    """
    if door.waiting == 0 and door.flights < door.slots:
        return None
    wait = expected_wait(door.waiting + 1, door.slots, door.seconds_each)
    if door.waiting >= door.depth:
        return _overloaded(door, "no more may wait", wait)
    if door.slots > 0 and wait > door.patience_seconds:
        limit = f"a turn would come in about {_lasting(wait)}, and the limit is {_lasting(door.patience_seconds)}"
        return _overloaded(door, limit, wait - door.patience_seconds)
    return None


def _overloaded(door: Door, why: str, seconds: float) -> Overloaded:
    after = retry_after(seconds)
    served = f"{door.slots} at once" if door.slots else "none yet, as it is being loaded"
    return Overloaded(
        f"{door.model} is overloaded: it serves {served}, {door.waiting} requests wait, and {why}; "
        f"try again in {after} s",
        retry_after_seconds=after,
    )


def expected_wait(place: int, slots: int, seconds_each: float) -> float:
    """Return the seconds until number *place* of a queue (from 1) has its turn, where *slots* are all busy.

    One of them becomes free each `seconds_each / slots`. Without slots it is counted as if there were one.
    """
    return max(0, place) * seconds_each / max(1, slots)


def queue_comment(place: int, waiting: int, seconds: float) -> str:
    """Return what a waiting client is told, as `waiting: place 3 of 7, about 12 s`."""
    return f"waiting: place {place} of {waiting}, about {_lasting(seconds)}"


def retry_after(seconds: float) -> int:
    """Return *seconds* as a `Retry-After` that every client honours: whole, from 1 to 60."""
    return ceil(min(max(1.0, seconds), LONGEST_RETRY_SECONDS))


def _lasting(seconds: float) -> str:
    return f"{max(1, ceil(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"
