#!/usr/bin/env python3
"""What one decision costs on a large fleet: `place` at 1,000 nodes and 10,000 replicas, in milliseconds.

Where there is no plan, it is with the error that tells so. What a view works out of each node when it is made is not
in it; `polling.py` has that.

The fleets are made up in memory, the same for a seed; nothing is sent anywhere. Each case runs as often as told, over
situations that differ only in the moment, so that nothing but what a view caches of itself is found again.

    .venv/bin/python bench/place.py [--nodes 1000] [--runs 200]
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cortex.core.model_spec import ModelSpec
from cortex.fleet.devices import Room
from cortex.fleet.place import Placement, no_place, place
from cortex.fleet.situation import Need, Policy, Situation
from cortex.fleet.view import FleetView, NodeView, ReplicaView, Spot

GIB = 1 << 30
DEVICES, PER_NODE, MODELS = 4, 10, 200
CAPACITY = 80 * GIB
NOW = 10_000.0
INCOMING = ModelSpec(id="new", source="hf:a/b")


@dataclass(frozen=True)
class Case:
    """A name, the situation, the model that comes, and what is to be found."""

    name: str
    situation: Situation
    spec: ModelSpec
    finds: Callable[[Placement], bool]


def fleet(nodes: int, seed: int) -> tuple[FleetView, dict[Spot, float]]:
    """Return a fleet whose devices are all nearly full, and how long each load took."""
    rng = random.Random(seed)
    made, took = [], {}
    for at in range(nodes):
        name, used = f"node-{at:04}", [0] * DEVICES
        replicas = []
        for model in rng.sample(range(MODELS), PER_NODE):
            device = min(range(DEVICES), key=lambda index: used[index])
            bytes_ = rng.randint(16, 28) * GIB
            used[device] += bytes_
            last = rng.uniform(0, 7200)
            replicas.append(
                ReplicaView(f"model-{model}", name, "ready", bytes_by_device={device: bytes_}, last_used=last)
            )
            took[name, f"model-{model}"] = rng.uniform(5, 60)
        rooms = tuple(
            Room(i, "cuda", "GPU", max(0, CAPACITY - u - rng.randint(10, 20) * GIB), i, CAPACITY)
            for i, u in enumerate(used)
        )
        engines = {"llamacpp": ("cuda", "cpu")}
        made.append(
            NodeView(
                name,
                f"http://{name}",
                True,
                engines=("llamacpp", "simulated"),
                engine_devices=engines,
                rooms=rooms,
                replicas=tuple(replicas),
            )
        )
    return FleetView.of(made), took


def cases(nodes: int, seed: int) -> list[Case]:
    """Return what is measured."""
    view, took = fleet(nodes, seed)
    catalogue = {f"model-{at}": ModelSpec(id=f"model-{at}") for at in range(MODELS)}
    full = FleetView.of(
        replace(node, rooms=tuple(replace(r, free_bytes=GIB) for r in node.rooms)) for node in view.nodes
    )

    def situation(gib: int, view: FleetView = full, strategy: Literal["lru", "priority"] = "lru") -> Situation:
        need = Need((gib * GIB,))
        return Situation(
            NOW,
            view,
            catalogue,
            policy=Policy(strategy=strategy),
            need=lambda _, __: need,
            load_seconds=took,
        )

    by_class = {m: ModelSpec(id=m, priority=100 * (1 + at % 3)) for at, m in enumerate(catalogue)}
    pinned = {model: ModelSpec(id=model, pinned=True) for model in catalogue}
    little = FleetView.of(replace(node, replicas=(*node.replicas, small(node.name))) for node in full.nodes)
    some_busy = {replica.spot: 1 for node in view.nodes for replica in node.replicas[1:]}
    busy = {replica.spot: 1 for node in view.nodes for replica in node.replicas}
    low = ModelSpec(id="new", priority=1)

    def evicts(found: Placement) -> bool:
        return found.plan is not None and bool(found.plan.victims)

    def frees(found: Placement) -> bool:
        return found.plan is not None and not found.plan.victims

    def nothing(found: Placement) -> bool:
        return found.plan is None and (bool(found.held) or len(found.rejected) + found.untold == nodes)

    return [
        Case("free fit", situation(8, view), INCOMING, frees),
        Case("evict one, lru", situation(12), INCOMING, evicts),
        Case("evict some, lru", situation(40), INCOMING, evicts),
        Case("evict one, priority", situation(12, strategy="priority"), INCOMING, evicts),
        Case("evict some, priority", situation(40, strategy="priority"), INCOMING, evicts),
        Case(
            "evict one, three classes",
            replace(situation(12, strategy="priority"), catalogue=by_class),
            replace_priority(INCOMING, 300),
            evicts,
        ),
        Case("nothing fits: too large", situation(400), ModelSpec(id="new", devices=1), nothing),
        Case("nothing fits: higher class", situation(12), low, nothing),
        Case("nothing fits: all busy", replace(situation(12), flights=busy), INCOMING, nothing),
        Case("not enough: most is pinned", replace(situation(60, little), catalogue=pinned), INCOMING, nothing),
        Case("not enough: most is busy", replace(situation(60), flights=some_busy), INCOMING, nothing),
        Case("not enough: others' memory", situation(79), INCOMING, nothing),
    ]


def small(node: str) -> ReplicaView:
    return ReplicaView("small", node, "ready", bytes_by_device={0: GIB}, last_used=NOW - 60)


def replace_priority(spec: ModelSpec, priority: int) -> ModelSpec:
    return ModelSpec(id=spec.id, source=spec.source, priority=priority)


def measure(case: Case, runs: int) -> list[float]:
    """Return how long each run took, in milliseconds."""
    took = []
    for at in range(runs + 5):
        situation = replace(case.situation, now=NOW + at)
        begun = time.thread_time()
        found = place(case.spec, situation)
        if found.plan is None:
            no_place(case.spec, situation, found)
        took.append((time.thread_time() - begun) * 1000)
        if not case.finds(found):
            raise SystemExit(f"{case.name}: found {found.plan}")
    return took[5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    measured = cases(asked.nodes, asked.seed)
    gc.freeze()
    print(
        f"{asked.nodes} nodes x {DEVICES} devices, {asked.nodes * PER_NODE} replicas of {MODELS} models; milliseconds"
    )
    print(f"| {'case':28} | median |    p99 |\n|{'-' * 30}|-------:|-------:|")
    for case in measured:
        took = measure(case, asked.runs)
        print(f"| {case.name:28} | {statistics.median(took):6.2f} | {statistics.quantiles(took, n=100)[98]:6.2f} |")


if __name__ == "__main__":
    main()
