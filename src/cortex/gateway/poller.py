"""Ask every node how it is, each on its own, and keep the `FleetView` that every decision starts from."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import anyio
import msgspec
from anyio.abc import TaskGroup

from cortex import __version__
from cortex.core.errors import BadRequest, UpstreamFailed, UpstreamTimeout
from cortex.core.logging import get_logger
from cortex.fleet.view import FleetView, NodeView
from cortex.gateway.config import Limits, NeuronAddress
from cortex.gateway.control import Control, NodeRefuses
from cortex.gateway.sighting import discovered_node, same_but_seen, seen_node
from cortex.gateway.upstream import Address
from cortex.wire.json import decode
from cortex.wire.node_api import Discovery, Health

log = get_logger(__name__)

# Nodes whose turns are in one of so many parts of the interval are asked together: a loop that is awake costs less than
# one that is woken.
PARTS = 100
# Multiples of the golden ratio lie evenly in the unit interval, however many there are.
_GOLDEN = 0.6180339887498949

_discovery = msgspec.json.Decoder(Discovery)
_health = msgspec.json.Decoder(Health)


@dataclass(eq=False)
class _Known:
    """What the poller remembers of one node between two answers; polls are numbered, since they may overlap."""

    address: Address
    phase: float
    view: NodeView
    discovered: NodeView | None = None
    health: Health | None = None
    skew: str = ""
    misses: int = 0
    lost: bool = False
    asked: int = 0
    answered: int = 0
    missed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Poller:
    """Owns the view.

    `on_change` is called with a node's name after each change of the view, unless all that changed is when the node
    was seen; `on_lost` is called with a node's address when it is taken for dead. Both must not block.
    `clock` tells the time that the view is in, in seconds.
    """

    def __init__(
        self,
        nodes: Iterable[NeuronAddress],
        limits: Limits,
        control: Control,
        *,
        on_lost: Callable[[Address], None] = lambda _: None,
        on_change: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.view = FleetView()
        self._control, self._on_lost, self._clock = control, on_lost, clock
        self._on_change: Callable[[str], None] = lambda _: None  # nobody can listen to what is not built yet
        self._known: dict[str, _Known] = {}
        self._added = 0
        self._tasks: TaskGroup | None = None
        for node in nodes:
            self.add(node)
        self._on_change = on_change

    async def run(self) -> None:
        """Poll for ever; one slow node never delays another."""
        try:
            async with anyio.create_task_group() as self._tasks:
                for known in self._known.values():
                    self._tasks.start_soon(self._poll_forever, known, name=f"poll:{known.view.name}")
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    def add(self, node: NeuronAddress, *, drained: bool = False) -> None:
        """Poll *node* as well, at once and from then on, in place of one of its name that is at another address."""
        former = self._known.get(node.name)
        if former is not None and former.address == node.address:
            return
        self.remove(node.name)
        endpoint = node.endpoint.rstrip("/")
        unseen = NodeView(node.name, endpoint, healthy=False, reason="not asked yet", drained=drained)
        known = self._known[node.name] = _Known(node.address, phase_of(self._added), unseen)
        self._added += 1
        self._set(known, unseen)
        if self._tasks is not None:
            self._tasks.start_soon(self._poll_forever, known, name=f"poll:{node.name}")

    def remove(self, name: str) -> None:
        """Poll the node called *name* no more, and forget it. Control calls to it fail; answers it gives go on."""
        known = self._known.pop(name, None)
        if known is None:
            return
        known.task.cancel()
        self._control.drop(known.address)
        self.view = self.view.without_node(name)
        self._on_change(name)

    def follow(self, nodes: Iterable[NeuronAddress], drained: Collection[str]) -> None:
        """Poll *nodes* and no others, and take those in *drained* for taken out of service."""
        wanted = {node.name: node for node in nodes}
        for name in [name for name in self._known if name not in wanted]:
            self.remove(name)
        for name, node in wanted.items():
            self.add(node, drained=name in drained)
            self.set_drained(name, name in drained)

    def set_drained(self, name: str, drained: bool) -> None:
        """Mark the node called *name* as taken out of service by the operator, or as back. Raises KeyError."""
        known = self._known[name]
        if known.view.drained != drained:
            self._set(known, replace(known.view, drained=drained))

    def address(self, node: str) -> Address:
        """Return host and port of *node*. Raises KeyError."""
        return self._known[node].address

    @property
    def readings(self) -> Mapping[str, Health]:
        """What each node that is there said of itself last: its devices' readings, and its models in full."""
        known = self._known.items()
        return {name: node.health for name, node in known if node.health is not None and not node.lost}

    def nudge(self, node: str) -> None:
        """Ask *node* again now, if it is still there: something about it was not as the view says."""
        if node in self._known:
            self._known[node].wake.set()

    async def first_round(self, seconds: float) -> None:
        """Ask every node once, for at most *seconds*, so that a fresh gateway knows its fleet before it answers."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for name in self._known:
                    tasks.start_soon(self.look, name)

    async def look(self, node: str) -> None:
        """Ask *node* now; return when it has answered, or has not in time. A node that was removed is not asked."""
        if node in self._known:
            await self._poll(self._known[node])

    async def _poll_forever(self, known: _Known) -> None:
        loop, began = asyncio.get_running_loop(), -math.inf
        if not known.asked:
            known.wake.set()
        with known.task:
            while True:
                # A timer alone, and no deadline on the wait: uvloop's timers are early, and a deadline spins until due.
                turn = next_turn(loop.time(), began, self.limits.poll_seconds, known.phase)
                timer = loop.call_at(turn, known.wake.set)
                try:
                    await known.wake.wait()
                finally:
                    timer.cancel()
                known.wake.clear()
                began = loop.time()
                await self._poll(known)

    async def _poll(self, known: _Known) -> None:
        """Ask one node now and update the view, unless what was asked later has been answered already."""
        known.asked += 1
        number = known.asked
        try:
            discovered, health = await self._ask(known)
        except (UpstreamFailed, UpstreamTimeout, BadRequest) as error:
            # Polls that are under way at the same time are silent for one reason: they are one miss.
            if self._is_current(known) and number > max(known.answered, known.missed):
                known.missed = known.asked
                self._missed(known, error)
        else:
            if self._is_current(known) and number > known.answered:
                known.answered = number
                self._answered(known, discovered, health)

    def _is_current(self, known: _Known) -> bool:
        return self._known.get(known.view.name) is known

    async def _ask(self, known: _Known) -> tuple[NodeView, Health]:
        seconds = self.limits.poll_timeout_seconds
        health = decode(await self._control.get(known.address, "/health", seconds), _health)
        if known.discovered is None or known.discovered.boot_id != health.boot_id:
            discovery = decode(await self._control.get(known.address, "/discovery", seconds), _discovery)
            known.discovered = discovered_node(known.view.name, known.view.endpoint, discovery)
        return known.discovered, health

    def _answered(self, known: _Known, discovered: NodeView, health: Health) -> None:
        former = known.view
        view = seen_node(discovered, health, former, self._clock())
        known.misses, known.lost, known.health = 0, False, health
        if former.boot_id not in ("", view.boot_id):
            log.warning("node_restarted", node=view.name, boot_id=view.boot_id)
        if view.healthy and not former.healthy:
            devices = [room.name for room in view.rooms]
            log.info("node_healthy", node=view.name, devices=devices, boot_id=view.boot_id)
        if view.version not in (__version__, known.skew):
            known.skew = view.version
            log.warning("node_version_differs", node=view.name, version=view.version, ours=__version__)
        self._set(known, view)

    def _missed(self, known: _Known, error: Exception) -> None:
        known.misses += 1
        if known.answered and known.misses < self.limits.misses:
            return
        reason = str(error) if isinstance(error, NodeRefuses) else f"does not answer: {error}"
        if isinstance(error, NodeRefuses) and known.view.reason != reason:
            log.warning("node_refuses", node=known.view.name, reason=reason)
        self._set(known, replace(known.view, healthy=False, reason=reason, rooms=(), replicas=()))
        if known.answered and not known.lost:
            known.lost = True
            host, port = known.address
            told = {"misses": known.misses, "announced": known.view.leaving, "error": str(error)}
            log.warning("node_lost", node=known.view.name, address=f"{host}:{port}", **told)
            self._control.drop(known.address)  # a call that is under way there would wait for ever
            self._on_lost(known.address)

    def _set(self, known: _Known, view: NodeView) -> None:
        former = self.view.by_name.get(view.name)
        known.view = view
        self.view = self.view.with_node(view)
        if former is None or not same_but_seen(former, view):
            self._on_change(view.name)


def phase_of(number: int) -> float:
    """Return when in the interval, from 0 up to 1, the node that was the *number*-th to be added has its turn."""
    return int(number * _GOLDEN % 1.0 * PARTS) / PARTS


def next_turn(now: float, began: float, interval: float, phase: float) -> float:
    """Return when a node with *phase*, from 0 up to 1, that was last asked at *began* is asked again. All in seconds.

    Turns are on one grid for all nodes, so that those of different phases never drift into one another. A turn less
    than half an interval after *began* is left out: the node was asked out of turn, or a timer was early.
    """
    after = max(now, began + interval / 2)
    return after + interval - (after - phase * interval) % interval
