#!/usr/bin/env python3
"""What keys cost a request: find the caller, check and set aside, settle, and the headers that tell where limits stand.

One thread, in memory, with the headers that a coding agent sends. The figure is the best of several rounds, for
anything else on the machine only adds to it.

    .venv/bin/python bench/keys.py [--requests 20000] [--rounds 7] [--keys 1000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from cortex.gateway.keys.caller import Caller
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import Keys
from cortex.gateway.keys.guard import Guard
from cortex.gateway.keys.headers import openai_lines
from cortex.gateway.keys.ledger import Ledger
from cortex.gateway.keys.secret import Key, new_key
from cortex.gateway.keys.sqlite_store import SqliteStore
from cortex.wire.engine_api import Usage

Headers = list[tuple[bytes, bytes]]

START = 1_800_000_000.0
SECONDS_PER_REQUEST = 0.01
USAGE = Usage(prompt_tokens=900, completion_tokens=120)
NAMES = ("qwen", "org/qwen-7b")
LIMITS = {
    "models": ("*qwen*",),
    "requests_per_minute": 10**6,
    "tokens_per_minute": 10**12,
    "concurrency": 100,
    "budget_tokens": 10**15,
}


def headers_with(key: Key) -> Headers:
    """Return what a coding agent sends, and *key* in both places."""
    others = [(b"x-stainless-%d" % at, b"some value") for at in range(10)]
    names = (b"host", b"user-agent", b"accept", b"content-type", b"content-length", b"accept-encoding")
    shown = key.reveal().encode()
    return [*((name, b"v") for name in names), *others, (b"authorization", b"Bearer " + shown), (b"x-api-key", shown)]


def door(ledger: Ledger, count: int, limits: dict[str, object]) -> tuple[Guard, Headers]:
    """Return a guard with *count* keys, and the headers of a holder of the last of them."""
    secrets = [new_key() for _ in range(count)]
    entries = [KeyEntry(name=f"k{at}", sha256=s.digest.hex(), **limits) for at, s in enumerate(secrets)]  # type: ignore[arg-type]
    guard = Guard(ledger)
    anyio.run(guard.reload, Keys({entry.id: entry for entry in entries}), START)
    return guard, headers_with(secrets[-1])


def whole(guard: Guard, headers: Headers) -> Callable[[float], None]:
    """Return a request from its headers to its end."""

    def request(now: float) -> None:
        guard.enter(headers, now).admit(NAMES, 1000, 4096, now).settle(USAGE, now)

    return request


def admitted(caller: Caller) -> Callable[[float], None]:
    """Return a request from its admission to its end."""

    def request(now: float) -> None:
        caller.admit(NAMES, 1000, 4096, now).settle(USAGE, now)

    return request


def microseconds(call: Callable[[float], object], requests: int, rounds: int) -> float:
    """Return the best mean time of *call* over *rounds*; virtual time goes on through all of them."""
    best, now = float("inf"), START
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(requests):
            now += SECONDS_PER_REQUEST
            call(now)
        best = min(best, time.perf_counter() - began)
    return best / requests * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keys", type=int, default=1000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory) / "ledger.db")
        ledger = Ledger(store)
        nobody = Guard(ledger)
        free, free_headers = door(ledger, wanted.keys, {})
        limited, headers = door(ledger, wanted.keys, LIMITS)
        caller = limited.enter(headers, START)
        rows: list[tuple[str, Callable[[float], object]]] = [
            ("no key file: all of it", whole(nobody, headers)),
            ("find the caller", lambda now: limited.enter(headers, now)),
            ("no limits: all of it", whole(free, free_headers)),
            ("every limit: admit and settle", admitted(caller)),
            ("every limit: all of it", whole(limited, headers)),
            ("headers of an answer", lambda now: openai_lines(caller.standing(now), now)),
        ]
        print(f"{wanted.keys} keys, best of {wanted.rounds} rounds of {wanted.requests} requests\n")
        for name, call in rows:
            print(f"{name:32} {microseconds(call, wanted.requests, wanted.rounds):6.2f} µs a request")
        store.close()


if __name__ == "__main__":
    main()
