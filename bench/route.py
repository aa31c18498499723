#!/usr/bin/env python3
"""What a routing decision costs in a fleet of 1,000 nodes and 10,000 ready replicas, and what it starts from.

.venv/bin/python bench/route.py [--decisions 20000]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from itertools import cycle

from cortex.fleet.affinity import Affinity, Keys
from cortex.fleet.doors import Doors, Ticket
from cortex.fleet.pace import Pace, Shape
from cortex.fleet.route import choose
from cortex.fleet.view import ReplicaView, Spot
from cortex.wire.session import message_chain, read_prompt

NODES, SLOTS = 1000, 8
FLEETS = {"1,000 models of 10 replicas": (1000, 10), "312 models of 32": (312, 32), "10 models of 1,000": (10, 1000)}
FILLED = {"idle": 0.0, "half full": 0.5, "95 % full": 0.95}

Fleet = list[tuple[ReplicaView, ...]]


def fleet_of(models: int, replicas: int) -> Fleet:
    """Return the replicas of each model, in order of node, on as few nodes in common as possible."""
    names = [f"node{number:04}" for number in range(NODES)]
    return [
        tuple(
            ReplicaView(f"model{model}", names[at], "ready", SLOTS)
            for at in sorted((model * replicas + number) % NODES for number in range(replicas))
        )
        for model in range(models)
    ]


def measured(decide: Callable[[], object], decisions: int) -> list[float]:
    """Return the microseconds of each of so many decisions, sorted."""
    times = []
    for _ in range(decisions):
        start = time.perf_counter_ns()
        decide()
        times.append((time.perf_counter_ns() - start) / 1000)
    return sorted(times)


def report(name: str, times: list[float]) -> None:
    """Print the median and the 99th percentile."""
    print(f"{name:58} median {times[len(times) // 2]:6.1f} µs   p99 {times[len(times) * 99 // 100]:6.1f} µs")


def decision(fleet: Fleet, filled: float, luck: random.Random) -> Callable[[], object]:
    """Return what decides for one model after the other, each decision with a warm node."""
    spots = [replica.spot for replicas in fleet for replica in replicas]
    flights: dict[Spot, int] = {spot: SLOTS if luck.random() < filled else 0 for spot in spots if filled}
    paces = {spot: Pace(luck.uniform(500, 4000), luck.uniform(20, 100)) for spot in spots}
    shape, turns = Shape(4000, 300), iter(range(1 << 60))
    models = cycle([(replicas, {luck.choice(replicas).node: 0.9}) for replicas in fleet])

    def decide() -> object:
        replicas, warm = next(models)
        return choose(replicas, flights=flights, paces=paces, shape=shape, warm=warm, turn=next(turns))

    return decide


def turn_of(replicas: tuple[ReplicaView, ...], keys: Keys) -> Callable[[], object]:
    """Return what gives a conversation a replica, turn after turn, and takes it back."""
    doors, model = Doors(), replicas[0].model

    def serve() -> None:
        choice = doors.choose(Ticket(model, 1.0, lambda: keys), replicas, 1.0)
        assert choice is not None
        doors.finished(choice.replica.spot, 1.0, None, None)

    return serve


def body_of(kilobytes: int) -> bytes:
    """Return the body of an agent's twentieth turn."""
    texts = ["You are a careful assistant.\n" * 300, *["Some text\nof several lines. " * 50 for _ in range(20)]]
    messages = [{"role": "user" if at % 2 else "assistant", "content": text} for at, text in enumerate(texts)]
    messages.append({"role": "user", "content": "x" * max(0, kilobytes * 1024 - len(json.dumps(messages)))})
    return json.dumps({"model": "m", "messages": messages, "stream": True}).encode()


def main() -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=20_000)
    decisions, luck = parser.parse_args().decisions, random.Random(1)
    for fleet_name, (models, replicas) in FLEETS.items():
        fleet = fleet_of(models, replicas)
        for filled_name, filled in FILLED.items():
            report(f"choose: {fleet_name}, {filled_name}", measured(decision(fleet, filled, luck), decisions))
    body, affinity = body_of(35), Affinity()
    prompt = read_prompt(body)
    keys = Keys("session", message_chain(prompt))
    report(f"read the prompt of {len(body):,} bytes", measured(lambda: read_prompt(body), decisions))
    report(f"chain over its {len(keys.chain)} messages", measured(lambda: message_chain(prompt), decisions))
    report("remember where it was served", measured(lambda: affinity.remember("m", keys, "node", 0.0), decisions))
    report("find where it is warm", measured(lambda: affinity.warm("m", keys, 1.0), decisions))
    for replicas in (10, 1000):
        each = measured(turn_of(fleet_of(1, replicas)[0], keys), decisions)
        report(f"the whole turn of this conversation, {replicas:,} replicas", each)


if __name__ == "__main__":
    main()
