"""Owns what goes on at the models' doors: who waits, what is under way at each replica, how fast each one is.

A request waits for a free slot of any replica, and is bound to one only when it gets it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter

from cortex.core.errors import CortexError, Overloaded
from cortex.fleet.admission import Door, admit, expected_wait, queue_comment, retry_after
from cortex.fleet.affinity import Affinity, Keys
from cortex.fleet.pace import Pace, Shape, learn, learn_shape, service_seconds
from cortex.fleet.route import Choice, choose
from cortex.fleet.situation import Policy
from cortex.fleet.view import ReplicaView, Spot
from cortex.wire.engine_api import Timings, Usage

_TYPICAL = Shape()


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that is to be given a replica, on none of the nodes it avoids.

    `keys` is called where there is a choice: what the request has in common with others that were served before.
    `place` is the one that it got in the queue, 1 for the first; 0 if it did not have to wait.
    """

    model: str
    arrived: float
    keys: Callable[[], Keys] | None = None
    avoid: set[str] = field(default_factory=set)
    place: int = 0
    _known_by: Keys | None = None

    def known_by(self) -> Keys | None:
        """Return its keys, found out once."""
        if self._known_by is None and self.keys is not None:
            self._known_by = self.keys()
        return self._known_by

    def can_use(self, replica: ReplicaView) -> bool:
        """Whether it may be given *replica*."""
        return replica.node not in self.avoid


class _ReadySince(dict[str, float]):
    """When the replica of a node became ready, found when it is asked for; never, if none is."""

    def __init__(self, ready: Sequence[ReplicaView]) -> None:
        self._ready = ready

    def __missing__(self, node: str) -> float:
        ready = self._ready
        at = bisect_left(ready, node, key=attrgetter("node"))
        found = self[node] = ready[at].ready_since if at < len(ready) and ready[at].node == node else inf
        return found


class Doors:
    """The queues by model; flights, paces and last uses by spot."""

    def __init__(self) -> None:
        self.flights: Counter[Spot] = Counter()
        self.used: dict[Spot, float] = {}
        self.affinity = Affinity()
        self.paces: dict[Spot, Pace] = {}
        self.shapes: dict[str, Shape] = {}
        self._queues: dict[str, deque[Ticket]] = {}
        self._turn = 0

    def choose(self, ticket: Ticket, ready: Sequence[ReplicaView], now: float) -> Choice | None:
        """Return the replica that *ticket* gets, with a slot that it holds until `finished`; None if all are full.

        Those *ready* are in order of node, as a view has them.
        """
        if not ready:
            return None
        keys = ticket.known_by() if len(ready) > 1 else None
        warm = self.affinity.warm(ticket.model, keys, now, _ReadySince(ready).__getitem__) if keys is not None else {}
        self._turn += 1
        choice = choose(
            ready,
            flights=self.flights,
            paces=self.paces,
            shape=self.shapes.get(ticket.model, _TYPICAL),
            warm=warm,
            turn=self._turn,
            avoid=ticket.avoid,
        )
        if choice is not None:
            spot = choice.replica.spot
            self.flights[spot] = self.flights.get(spot, 0) + 1
            self.used[spot] = now
            if keys is not None:
                self.affinity.remember(ticket.model, keys, choice.replica.node, now)
        return choice

    def finished(self, spot: Spot, now: float, usage: Usage | None, timings: Timings | None) -> None:
        """Free the slot of a request that is over, and learn from it how fast its replica is."""
        left = self.flights.pop(spot, 0) - 1
        if left > 0:
            self.flights[spot] = left
        self.used[spot] = now
        if usage is not None and timings is not None:
            self.paces[spot] = learn(self.paces.get(spot), usage, timings)
            self.shapes[spot[1]] = learn_shape(self.shapes.get(spot[1]), usage)

    def admit(self, ticket: Ticket, ready: Sequence[ReplicaView], policy: Policy) -> CortexError | None:
        """Queue *ticket*, or return what refuses it: too many wait, or it would wait for too long."""
        queue = self._queues.setdefault(ticket.model, deque())
        refusal = admit(self._door(ticket.model, ready, policy))
        if refusal is None:
            queue.append(ticket)
            ticket.place = len(queue)
        return refusal

    def serve(self, model: str, ready: Sequence[ReplicaView], now: float) -> Iterator[tuple[Ticket, Choice]]:
        """Yield who gets which of the free slots, in their order; one that avoids what is free waits on."""
        queue = self._queues.get(model)
        for ticket in list(queue or ()):
            choice = self.choose(ticket, ready, now)
            if choice is not None:
                self.leave(ticket)
                yield ticket, choice
            elif not ticket.avoid:
                return

    def leave(self, ticket: Ticket) -> bool:
        """Take *ticket* out of its queue; return whether it was there."""
        queue = self._queues.get(ticket.model)
        if not queue or ticket not in queue:
            return False
        queue.remove(ticket)
        if not queue:
            del self._queues[ticket.model]
        return True

    def waiting(self, model: str) -> tuple[Ticket, ...]:
        """Return who waits for *model*."""
        return tuple(self._queues.get(model, ()))

    def waits(self, model: str) -> bool:
        """Whether anyone waits for *model*."""
        return bool(self._queues.get(model))

    def waiting_since(self) -> dict[str, float]:
        """Return when the first in each queue came."""
        return {model: queue[0].arrived for model, queue in self._queues.items() if queue}

    def late(self, model: str, before: float) -> Iterator[Ticket]:
        """Take those out who came earlier than *before*, and yield them."""
        for ticket in self.waiting(model):
            if ticket.arrived < before:
                self.leave(ticket)
                yield ticket

    def overdue(self, ticket: Ticket, ready: Sequence[ReplicaView], now: float, why: str) -> Overloaded:
        """Return the refusal of one that waited for too long."""
        reason = f": {why}" if why else ""
        return Overloaded(
            f"no replica of {ticket.model} was free for {now - ticket.arrived:.0f} s{reason}",
            retry_after_seconds=retry_after(self._seconds_each(ticket.model, ready)),
        )

    def comment(self, ticket: Ticket, ready: Sequence[ReplicaView]) -> str:
        """Return the place of *ticket* and how long it may last, for whoever waits with it."""
        place, waiting = self.place_of(ticket)
        slots = sum(max(1, replica.slots) for replica in ready)
        return queue_comment(place, waiting, expected_wait(place, slots, self._seconds_each(ticket.model, ready)))

    def place_of(self, ticket: Ticket) -> tuple[int, int]:
        """Return the place of *ticket* in its queue, 1 for the next, and how many wait."""
        queue = self._queues.get(ticket.model, ())
        return next((place for place, other in enumerate(queue, 1) if other is ticket), 1), len(queue)

    def forget_node(self, node: str) -> None:
        """Forget how fast the replicas of *node* were: it is gone, or has begun anew."""
        for spot in [spot for spot in self.paces if spot[0] == node]:
            del self.paces[spot]

    def _door(self, model: str, ready: Sequence[ReplicaView], policy: Policy) -> Door:
        return Door(
            model=model,
            waiting=len(self._queues.get(model, ())),
            flights=sum(self.flights[replica.spot] for replica in ready),
            slots=sum(max(1, replica.slots) for replica in ready),
            seconds_each=self._seconds_each(model, ready),
            depth=policy.queue_depth * max(1, len(ready)),
            patience_seconds=policy.queue_seconds,
        )

    def _seconds_each(self, model: str, ready: Sequence[ReplicaView]) -> float:
        """Return the mean time that one of *ready* takes for a typical request; 0 while nothing was learned."""
        shape = self.shapes.get(model)
        paces = [self.paces[replica.spot] for replica in ready if replica.spot in self.paces]
        known = [service_seconds(pace, shape) for pace in paces if pace.samples] if shape is not None else []
        return sum(known) / len(known) if known else 0.0
