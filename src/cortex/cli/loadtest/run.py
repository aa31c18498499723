"""Run a load test: a first request that may be a cold start, then one level after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cortex.cli.failures import Failure
from cortex.cli.loadtest.client import Client
from cortex.cli.loadtest.samples import Level, Sample, level_of
from cortex.cli.loadtest.target import Ask, Target


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured. `requests` are those of each level, never fewer than its concurrency."""

    target: Target
    ask: Ask
    concurrencies: Sequence[int]
    requests: int
    idle_seconds: float


@dataclass(slots=True)
class Watch:
    """Who hears how far a test is: that the model is waited for, and the requests of a level that have ended."""

    waiting: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int, int], None] = lambda concurrency, ended, requests: None


async def warm_up(wanted: Wanted, numbers: Iterator[int], watch: Watch) -> Sample:
    """Ask once, so that the levels find the model loaded. Raises Failure with what the server says."""
    async with Client(wanted.target, wanted.idle_seconds, watch.waiting) as client:
        sample = await client.ask(wanted.ask.body(next(numbers)))
    if sample.error is not None:
        raise Failure(f"the first request failed: {sample.error}")
    return sample


async def measure(wanted: Wanted, on_level: Callable[[Level], None], watch: Watch) -> Sample:
    """Measure the levels one by one, tell each when it has ended, and return the first request's sample."""
    numbers = itertools.count()
    first = await warm_up(wanted, numbers, watch)
    for concurrency in wanted.concurrencies:
        on_level(level_of(concurrency, await _level(wanted, concurrency, numbers, watch)))
    return first


async def _level(wanted: Wanted, concurrency: int, numbers: Iterator[int], watch: Watch) -> list[Sample]:
    """Keep *concurrency* requests under way until all of the level were asked."""
    requests = max(wanted.requests, concurrency)
    left = iter(range(requests))
    samples: list[Sample] = []

    async def one_client() -> None:
        async with Client(wanted.target, wanted.idle_seconds) as client:
            for _ in left:
                samples.append(await client.ask(wanted.ask.body(next(numbers))))
                watch.progress(concurrency, len(samples), requests)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_client())
    return samples
