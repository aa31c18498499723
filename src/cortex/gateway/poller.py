"""Ask every node how it is, each on its own, and keep the `FleetView` that every decision starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import httpx2
import msgspec

from cortex.core.errors import BadRequest
from cortex.core.logging import get_logger
from cortex.fleet.fit import Room
from cortex.fleet.view import FleetView, NodeView, ReplicaView
from cortex.gateway.config import Limits, NeuronAddress
from cortex.wire.json import decode
from cortex.wire.node_api import Discovery, Health

log = get_logger(__name__)

_discovery = msgspec.json.Decoder(Discovery)
_health = msgspec.json.Decoder(Health)


@dataclass(slots=True)
class _Known:
    """What the poller remembers of one node between two answers; polls are numbered, since they may overlap."""

    view: NodeView
    misses: int = 0
    discovery: Discovery | None = None
    asked: int = 0
    answered: int = 0
    missed: int = 0


class Poller:
    """Owns the view. `on_lost` is called with a node's address when it is taken for dead."""

    def __init__(
        self,
        nodes: Sequence[NeuronAddress],
        limits: Limits,
        client: httpx2.AsyncClient,
        on_lost: Callable[[tuple[str, int]], None],
    ) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._limits, self._client, self._on_lost = limits, client, on_lost
        self._known = {
            node.name: _Known(NodeView(node.name, node.endpoint.rstrip("/"), healthy=False, reason="not asked yet"))
            for node in nodes
        }
        self._wake = {node.name: anyio.Event() for node in nodes}
        self.view = FleetView(tuple(known.view for known in self._known.values()))

    async def run(self) -> None:
        """Poll for ever; one slow node never delays another."""
        async with anyio.create_task_group() as tasks:
            for name in self._nodes:
                tasks.start_soon(self._poll_forever, name, name=f"poll:{name}")

    def address(self, node: str) -> tuple[str, int]:
        """Return host and port of *node*."""
        return self._nodes[node].address

    def nudge(self, node: str) -> None:
        """Ask *node* again now: something about it was not as the view says."""
        self._wake[node].set()

    async def first_round(self, seconds: float) -> None:
        """Ask every node once, for at most *seconds*, so that a fresh gateway knows its fleet before it answers."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for name in self._nodes:
                    tasks.start_soon(self.poll, name)

    async def poll(self, name: str) -> None:
        """Ask one node now and update the view, unless what was asked later has been answered already."""
        known = self._known[name]
        known.asked += 1
        number = known.asked
        try:
            with anyio.fail_after(self._limits.poll_timeout_seconds):
                view = await self._ask(known)
        except (OSError, TimeoutError, httpx2.HTTPError, BadRequest) as error:
            # Polls that are under way at the same time are silent for one reason: they are one miss.
            if number > max(known.answered, known.missed):
                known.missed = known.asked
                self._missed(known, error)
        else:
            if number > known.answered:
                known.answered = number
                self._answered(known, view)
        self.view = FleetView(tuple(k.view for k in self._known.values()))

    async def _poll_forever(self, name: str) -> None:
        while True:
            with anyio.move_on_after(self._limits.poll_seconds):
                await self._wake[name].wait()
                self._wake[name] = anyio.Event()
            await self.poll(name)

    async def _ask(self, known: _Known) -> NodeView:
        endpoint = known.view.endpoint
        health = decode((await self._client.get(f"{endpoint}/health")).raise_for_status().content, _health)
        if known.discovery is None or known.discovery.boot_id != health.boot_id:
            answer = (await self._client.get(f"{endpoint}/discovery")).raise_for_status()
            known.discovery = decode(answer.content, _discovery)
        return node_view(known.view.name, endpoint, known.discovery, health)

    def _answered(self, known: _Known, view: NodeView) -> None:
        if not known.view.healthy and view.healthy:
            devices = [room.name for room in view.rooms]
            log.info("node_healthy", node=view.name, devices=devices, boot_id=view.boot_id)
        known.misses, known.view = 0, view

    def _missed(self, known: _Known, error: Exception) -> None:
        known.misses += 1
        reason = f"does not answer ({type(error).__name__}{f': {error}' if str(error) else ''})"
        lost = known.answered > 0 and known.misses == self._limits.misses
        if lost or not known.view.healthy:
            known.view = _unhealthy(known.view, reason)
        if lost:
            log.warning("node_lost", node=known.view.name, misses=known.misses, error=reason)
            self._on_lost(self.address(known.view.name))


def node_view(name: str, endpoint: str, discovery: Discovery, health: Health) -> NodeView:
    """Return what a node said of itself as a value for decisions."""
    free = {device.index: device.memory_free_bytes for device in health.devices}
    draining = health.status == "draining"
    return NodeView(
        name=name,
        endpoint=endpoint,
        healthy=not draining,
        reason="is shutting down" if draining else "",
        boot_id=health.boot_id,
        engines=tuple(discovery.engines),
        engine_devices={engine: tuple(kinds) for engine, kinds in discovery.engine_devices.items()},
        rooms=tuple(
            Room(d.index, d.kind, d.name, free.get(d.index, 0), d.ordinal, d.memory_total_bytes)
            for d in discovery.devices
        ),
        replicas=tuple(
            ReplicaView(
                model=m.id,
                node=name,
                state=m.status,
                slots=m.slots,
                in_flight=m.in_flight,
                queued=m.queued,
                context_tokens=m.context_tokens,
                capabilities=tuple(m.capabilities),
                memory_bytes=m.memory_bytes,
                simulated=m.simulated,
                error=m.error,
                load_seconds=m.load_seconds,
            )
            for m in health.models
        ),
    )


def _unhealthy(view: NodeView, reason: str) -> NodeView:
    return NodeView(view.name, view.endpoint, healthy=False, reason=reason, boot_id=view.boot_id)
