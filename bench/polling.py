#!/usr/bin/env python3
"""What it costs a gateway to know a large fleet: the CPU time and memory of the process that polls it.

Another process plays the nodes: each is a port on loopback that answers /health and /discovery over HTTP/1.1, with as
many replicas as told. Their figures move from answer to answer as those of real nodes do: uptime, age of the reading,
free memory and idle times always; requests in flight at a tenth of the replicas. What is measured is the process with
`Poller`, `Control`, the view and the `Reconciler` that is told of every change, and nothing else of a gateway:
process_time over the whole run, and its resident memory at the end.

    .venv/bin/python bench/polling.py [--nodes 1000] [--replicas 10] [--models 200] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import resource
import time
from functools import partial
from multiprocessing.connection import Connection
from typing import cast

import anyio
import msgspec
import psutil  # type: ignore[import-untyped]
import uvloop

from cortex import __version__
from cortex.core.logging import configure
from cortex.core.model_spec import ModelSpec
from cortex.fleet.effects import Effects
from cortex.fleet.reconciler import Reconciler
from cortex.fleet.situation import Policy
from cortex.gateway.config import Limits, NeuronAddress
from cortex.gateway.control import Control
from cortex.gateway.poller import Poller
from cortex.gateway.upstream import Pool
from cortex.wire.node_api import Activation, DeviceHealth, DeviceInfo, Discovery, Health, ModelInfo

GIB = 1 << 30
DEVICES = 4


class Node:
    """What one node says of itself, a little different each time."""

    def __init__(self, index: int, replicas: int, models: int) -> None:
        self.boot_id, self.begun, self.answers = f"boot-{index}", time.monotonic(), 0
        kinds = [
            DeviceInfo(index=d, name=f"GPU {d}", kind="cuda", memory_total_bytes=80 * GIB, ordinal=d)
            for d in range(DEVICES)
        ]
        discovery = Discovery(
            hostname=f"node-{index}",
            os="linux",
            kernel="6",
            boot_id=self.boot_id,
            version=__version__,
            devices=kinds,
            engines=["llamacpp", "simulated"],
            engine_devices={"llamacpp": ["cuda", "cpu"]},
        )
        self.discovery = answer(msgspec.json.encode(discovery))
        self.models = [
            ModelInfo(
                id=f"some-organisation/a-model-of-{(index * 7 + r) % models}-billion",
                engine="llamacpp",
                status="ready",
                engine_version="1.0",
                source="hf:some-organisation/a-model",
                devices=[r % DEVICES],
                context_tokens=32768,
                slots=8,
                capabilities=["chat", "completion", "tools"],
                memory_bytes=8 * GIB,
                pid=1000 + r,
                load_seconds=12.5,
                bytes_by_device={r % DEVICES: 8 * GIB},
                peak_by_device={r % DEVICES: 8 * GIB},
            )
            for r in range(replicas)
        ]

    def health(self) -> bytes:
        self.answers += 1
        up = time.monotonic() - self.begun
        for index, model in enumerate(self.models):
            busy = (index + self.answers) % 10 == 0
            model.in_flight, model.idle_seconds = int(busy), None if busy else up + index
            model.loaded_seconds_ago, model.requests = up + index, self.answers
        devices = [
            DeviceHealth(
                index=d,
                memory_used_bytes=20 * GIB,
                memory_free_bytes=60 * GIB - self.answers * 4096,
                utilization_pct=float(self.answers % 100),
                temp_c=60.0,
            )
            for d in range(DEVICES)
        ]
        health = Health(
            status="ready",
            boot_id=self.boot_id,
            uptime_secs=up,
            readings_age_seconds=up % 1,
            devices=devices,
            activation=Activation(state="ready"),
            models=self.models,
        )
        return answer(msgspec.json.encode(health))


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Peer(asyncio.Protocol):
    """One connection of the gateway's; requests arrive whole, since they are short and one at a time."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        is_health = data.startswith(b"GET /health ")
        self.transport.write(self.node.health() if is_health else self.node.discovery)  # type: ignore[attr-defined]


def play(nodes: int, replicas: int, models: int, told: Connection) -> None:
    """Play the nodes until killed; tell their ports."""

    async def serve() -> None:
        loop, ports = asyncio.get_running_loop(), []
        for index in range(nodes):
            server = await loop.create_server(partial(Peer, Node(index, replicas, models)), "127.0.0.1", 0)
            ports.append(server.sockets[0].getsockname()[1])
        told.send(ports)
        await asyncio.Event().wait()

    uvloop.run(serve())


async def poll(ports: list[int], seconds: float, interval: float) -> None:
    """Poll the nodes on *ports* for *seconds*, and print what it took."""
    changes = 0

    def changed(node: str) -> None:
        nonlocal changes
        changes += 1
        reconciler.view_changed(poller.view, node, time.monotonic())

    nodes = [NeuronAddress(name=f"node-{i}", endpoint=f"http://127.0.0.1:{port}") for i, port in enumerate(ports)]
    control = Control(Pool(3.0))
    catalogue = {f"model-{at}": ModelSpec(id=f"model-{at}") for at in range(200)}
    reconciler = Reconciler(cast(Effects, None), catalogue, Policy())  # nobody asks for anything: it has no effects
    begun = time.process_time()
    poller = Poller(nodes, Limits(poll_seconds=interval), control, on_change=changed)
    await poller.first_round(60.0)
    print(f"first look at all   {time.process_time() - begun:6.2f} s of CPU")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        await anyio.sleep(2 * interval)
        changes, cpu, wall = 0, time.process_time(), time.monotonic()
        worst = await lag(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        tasks.cancel_scope.cancel()
    now = time.monotonic()
    oldest = max(now - node.seen_at for node in poller.view.nodes)
    healthy = sum(node.healthy for node in poller.view.nodes)
    polls = wall / interval * len(ports)
    print(f"polling             {100 * cpu / wall:6.1f} % of one core (target: under 15 for 1000 nodes every 2 s)")
    print(f"a poll              {1e6 * cpu / polls:6.0f} µs; {changes / polls:.2f} of them changed the view")
    print(f"the loop was late   {1e3 * worst:6.1f} ms at most")
    print(f"healthy             {healthy:6d} of {len(ports)}; the oldest sighting is {oldest:.2f} s old")
    print(f"resident memory     {psutil.Process().memory_info().rss / 2**20:6.0f} MiB (target: under 200)")
    control.close()


async def lag(seconds: float) -> float:
    """Return the longest that a sleep of 20 ms took too long within *seconds*."""
    worst, end = 0.0, time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        await asyncio.sleep(0.02)
        worst = max(worst, time.monotonic() - begun - 0.02)
    return worst


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=2.0)
    arguments = parser.parse_args()
    configure("warning")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * arguments.nodes + 1024
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(hard, wanted), hard))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    played = (arguments.nodes, arguments.replicas, arguments.models, there)
    server = context.Process(target=play, args=played, daemon=True)
    server.start()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {arguments.nodes} nodes with {arguments.replicas} replicas of "
        f"{arguments.models} models, each asked every {arguments.interval:g} s for {arguments.seconds:g} s"
    )
    uvloop.run(poll(here.recv(), arguments.seconds, arguments.interval))
    server.terminate()
    server.join()


if __name__ == "__main__":
    main()
