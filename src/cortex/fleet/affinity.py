"""Where a conversation was served last: which nodes are likely to have its prompt cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from cortex.wire.session import Chain

CAPACITY = 65_536
FADED_AFTER_SECONDS = 1800.0
SESSION_FRACTION = 0.9
NODES_EACH = 4
REMEMBERED_LINKS = 4


class Keys(NamedTuple):
    """What a request is recognised by: what its client calls the session, and the chain over its messages."""

    session: str | None = None
    chain: Chain = ()


def _always(_: str) -> float:
    return -inf


class Affinity:
    """Remember which nodes served what, for half an hour and at most 65,536 keys. Owned by one task; has no clock."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._nodes: OrderedDict[int, tuple[tuple[str, float], ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def remember(self, model: str, keys: Keys, node: str, now: float) -> None:
        """Note that *node* serves the request known by *keys* at *now*.

        Of the chain only its ends are kept, as the turns before have left theirs: a conversation goes on from its end,
        others share its start.
        """
        seed = hash(model)
        if keys.session is not None:
            self._note(hash((seed, keys.session)), (), node, now)
        chain = keys.chain
        links = chain if len(chain) <= 2 * REMEMBERED_LINKS else chain[:REMEMBERED_LINKS] + chain[-REMEMBERED_LINKS:]
        for value, _ in links:
            key = seed ^ value
            self._note(key, self._nodes.get(key, ()), node, now)
        while len(self._nodes) > self._capacity:
            self._nodes.popitem(last=False)

    def _note(self, key: int, before: tuple[tuple[str, float], ...], node: str, now: float) -> None:
        if before and before[0][0] == node:
            others = before[1:]
        else:
            others = tuple([entry for entry in before if entry[0] != node][: NODES_EACH - 1])
        self._nodes[key] = ((node, now), *others)
        self._nodes.move_to_end(key)

    def warm(self, model: str, keys: Keys, now: float, since: Callable[[str], float] = _always) -> Mapping[str, float]:
        """Return the nodes likely to have some of the prompt cached, and which fraction of it, from 0 to 1.

        Of the chain, the longest part that a node has served counts; a session counts for most of the prompt on the
        node that served it last. Either fades with its age. What a node served before it has had its replica, *since*
        when it tells, went with the one before. It is asked only of nodes that served something.
        """
        seed, found = hash(model), dict[str, float]()
        if keys.session is not None:
            self._add(found, hash((seed, keys.session)), SESSION_FRACTION, now, since)
        nodes, chain = self._nodes, keys.chain
        total = chain[-1][1] if chain else 1
        for value, size in chain:
            if seed ^ value in nodes:
                self._add(found, seed ^ value, size / total, now, since)
        return found

    def _add(
        self, found: dict[str, float], key: int, fraction: float, now: float, since: Callable[[str], float]
    ) -> None:
        """Raise what is *found* of each node under *key* to *fraction*, less its fading."""
        for node, at in self._nodes.get(key, ()):
            left = fraction * min(1.0, 1.0 - (now - at) / FADED_AFTER_SECONDS)
            if left > found.get(node, 0.0) and at >= since(node):
                found[node] = left
