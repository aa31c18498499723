"""Drive a fleet of mismatched boxes with a mixed load, as its clients would, and see that nothing is lost.

Three neurons with simulated devices of 12, 24 and 2×32 GB, ten models that do not fit all at once, and clients that
stream, wait for whole answers, and hang up. At the end: what was asked, what was answered, and what was decided.

    python bench/drive.py --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from harness import Fleet

SIZES_MB = {
    "tiny-a": 2000,
    "tiny-b": 2500,
    "small-a": 7000,
    "small-b": 8000,
    "coder": 11000,
    "medium-a": 15000,
    "medium-b": 18000,
    "large-a": 22000,
    "large-b": 30000,
    "wide": 50000,
}
NODES = {"box12": [12288], "box24": [24576], "box64": [32768, 32768]}


def catalogue() -> str:
    """Return ten models; the one called wide goes over two devices, the coder is resident."""
    entries = []
    for name, size in SIZES_MB.items():
        extra = "devices = 2\n" if name == "wide" else ""
        extra += 'min_resident = 1\npriority = 200\nnodes = ["box12"]\n' if name == "coder" else ""
        extra += "max_replicas = 2\n" if name.startswith("tiny") else ""
        seconds = 0.2 + size / 20000
        entries.append(
            f'[[models]]\nid = "{name}"\nengine = "simulated"\n{extra}'
            f"options = {{ memory_mb = {size}, load_seconds = {seconds:.2f}, tokens_per_second = 120, slots = 4 }}\n"
        )
    return "\n".join(entries)


@dataclass
class Tally:
    """What came of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


async def stream(client: httpx2.AsyncClient, url: str, body: dict[str, Any], tally: Tally, rng: random.Random) -> None:
    """Stream an answer to its end, or hang up in the middle of one in twenty."""
    leaves = rng.random() < 0.05
    tokens, ended = 0, False
    async with client.stream("POST", url, json={**body, "stream": True}) as answer:
        if answer.status_code != 200:
            tally.lost.append(f"{body['model']}: HTTP {answer.status_code} {(await answer.aread())[:200]!r}")
            return
        async for line in answer.aiter_lines():
            if line.startswith("data: [DONE]"):
                ended = True
            elif line.startswith('data: {"error"'):
                tally.lost.append(f"{body['model']}: {line[:200]}")
                return
            elif line.startswith("data: "):
                tokens += 1
                if leaves and tokens > 3:
                    tally.outcomes["left"] += 1
                    return
    if not ended:
        tally.lost.append(f"{body['model']}: a stream without its end after {tokens} events")
    tally.outcomes["streamed"] += ended


async def whole(client: httpx2.AsyncClient, url: str, body: dict[str, Any], tally: Tally) -> None:
    """Wait for a whole answer."""
    answer = await client.post(url, json=body)
    if answer.status_code == 200 and answer.json()["usage"]["completion_tokens"]:
        tally.outcomes["whole"] += 1
    else:
        tally.lost.append(f"{body['model']}: HTTP {answer.status_code} {answer.text[:200]}")


async def client_loop(number: int, url: str, until: float, tally: Tally) -> None:
    """Be one client: a favourite model, now and then another, with pauses."""
    rng = random.Random(number)
    favourite = rng.choice(list(SIZES_MB))
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(None, connect=10), trust_env=False) as client:
        while time.monotonic() < until:
            model = favourite if rng.random() < 0.7 else rng.choice(list(SIZES_MB))
            prompt = f"#tokens {rng.randint(5, 150)} and say it"
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "prompt_cache_key": f"c{number}"}
            began = time.monotonic()
            try:
                if rng.random() < 0.6:
                    await stream(client, url, body, tally, rng)
                else:
                    await whole(client, url, body, tally)
            except httpx2.HTTPError as error:
                tally.lost.append(f"{model}: {error!r}")
            tally.waits.append(time.monotonic() - began)
            await asyncio.sleep(rng.expovariate(1.0))


async def drive(url: str, seconds: float, clients: int) -> Tally:
    """Run all clients for *seconds*."""
    tally, until = Tally(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client_loop(number, f"{url}/v1/chat/completions", until, tally))
    return tally


def main() -> None:
    """Start the fleet, drive it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--strategy", choices=["lru", "priority"], default="lru")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(Path(directory))
        try:
            neurons = {
                name: fleet.neuron(
                    name,
                    config="".join(
                        f'[[simulated_devices]]\nname = "{name}-{at}"\nmemory_mb = {size}\n'
                        for at, size in enumerate(sizes)
                    ),
                ).port
                for name, sizes in NODES.items()
            }
            config = f'[eviction]\nstrategy = "{asked.strategy}"\n'
            gateway = fleet.gateway(catalogue(), neurons, config=config)
            tally = asyncio.run(drive(gateway.url, asked.minutes * 60, asked.clients))
            decisions = gateway.get("/fleet/decisions?limit=5000")["data"]
            report(tally, decisions)
        finally:
            fleet.close()
            if tally_is_bad := [d for d in fleet.daemons.values() if d.process.returncode not in (0, None)]:
                print("ended badly:", [(d.name, d.process.returncode) for d in tally_is_bad])


def report(tally: Tally, decisions: list[dict[str, Any]]) -> None:
    """Print what came of it."""
    waits = sorted(tally.waits)
    print(f"requests {len(waits)}  " + "  ".join(f"{k} {v}" for k, v in sorted(tally.outcomes.items())))
    print(f"seconds: p50 {waits[len(waits) // 2]:.2f}  p99 {waits[int(len(waits) * 0.99)]:.2f}  max {waits[-1]:.2f}")
    print("decisions: " + json.dumps(Counter(entry["kind"] for entry in decisions)))
    unexplained = [entry for entry in decisions if not entry["reason"]]
    print(f"decisions without a reason: {len(unexplained)}")
    print(f"lost: {len(tally.lost)}")
    for line in tally.lost[:20]:
        print("  ", line)


if __name__ == "__main__":
    main()
