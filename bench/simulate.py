#!/usr/bin/env python3
"""How long a day of 100,000 requests on 20 nodes with 60 models takes to simulate, under each strategy.

.venv/bin/python bench/simulate.py [--requests 100000] [--nodes 20] [--models 60]
"""

from __future__ import annotations

import argparse
import json
import time

from cortex.core.model_spec import ModelSpec
from cortex.fleet.situation import Policy
from cortex.sim.description import Behaviour, Delays, Device, Fleet, Limits, Machine, Strategy
from cortex.sim.generate import Wish, generate
from cortex.sim.run import simulate

STRATEGIES: tuple[Strategy, ...] = ("lru", "priority")


def fleet_of(nodes: int, models: int) -> Fleet:
    """Return nodes of two 24 GB devices each, and models of 4 to 21 GB in three classes."""
    devices = [Device(name="gpu", memory="24 GB", count=2)]
    catalogue = {
        f"model{number:03}": ModelSpec(id=f"model{number:03}", priority=100 + number % 3, max_replicas=3)
        for number in range(models)
    }
    return Fleet(
        name=f"{nodes} nodes, {models} models",
        machines=tuple(Machine(name=f"node{number:03}", devices=devices) for number in range(nodes)),
        catalogue=catalogue,
        aliases={},
        behaviours={
            name: Behaviour(memory=f"{4 + 7 * number % 18} GB", slowdown=0.05) for number, name in enumerate(catalogue)
        },
        policy=Policy(),
        limits=Limits(),
        delays=Delays(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--models", type=int, default=60)
    options = parser.parse_args()
    fleet, wish = fleet_of(options.nodes, options.models), Wish(options.requests, bursts=4)
    for strategy in STRATEGIES:
        began = time.perf_counter()
        report = simulate(fleet, strategy, generate(wish, list(fleet.catalogue))).report
        seconds = time.perf_counter() - began
        figures = {
            "fleet": fleet.name,
            "strategy": strategy,
            "requests": report.requests,
            "wall_seconds": round(seconds, 2),
            "events_per_second": round(report.steps / seconds),
            "times_real_time": round(report.seconds / seconds),
            "evictions": report.evictions,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
