#!/usr/bin/env python3
"""What a gateway costs, beside others: requests a second, CPU a chunk, delays, memory, and who notices what.

Each server has the first core to itself; the load and the mock nodes share the second. Cortex runs with keys, rates, a
budget, metrics and its log at info. All are measured in turn within a repetition, and ratios are taken there; the
tables have the medians and, behind them, the smallest and the largest.

    .venv/bin/python bench/peers.py [--peers cortex,nginx,vllm-router,sglang-router,litellm] [--rounds 3] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from load import request
from peer_programs import PEERS, Absent, Bench, Peer

from cortex.gateway.keys.secret import new_key

HERE = Path(__file__).parent
START_SECONDS = 90.0
SERVER_CORE, LOAD_CORE = 0, (os.cpu_count() or 1) - 1
Found = dict[str, float]


@contextmanager
def started(command: Sequence[str], core: int, log: Path) -> Iterator[psutil.Process]:
    """Run *command* on *core* for the length of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Server:
    """A running peer."""

    peer: Peer
    process: psutil.Process
    bench: Bench

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has taken so far, with its workers."""
        times = [process.cpu_times() for process in self._family()]
        return sum(taken.user + taken.system for taken in times)

    def rss_mb(self) -> float:
        """Return the memory of its largest process, in MB."""
        return float(max(process.memory_info().rss for process in self._family()) / 1e6)


def load(kind: str, port: int, server: Server | None, **options: object) -> Found:
    """Run one kind of load on *port*; add what *server* took for it."""
    command = [sys.executable, str(HERE / "load.py"), kind, str(port)]
    for name, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        command += [f"--{name.replace('_', '-')}", *map(str, values)]
    cpu, rss = [0.0], [0.0]
    with subprocess.Popen(
        ["taskset", "-c", str(LOAD_CORE), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                found: Found = json.loads(line)
                break
            if server is not None:
                cpu.append(server.cpu_seconds())
                rss.append(server.rss_mb())
            process.stdin.write("\n")
            process.stdin.flush()
        else:
            raise RuntimeError(f"{kind} on {server.peer.name if server else 'the mock'}: the load generator failed")
    found["cpu_us"] = (cpu[-1] - cpu[-2]) / found["count"] * 1e6 if len(cpu) > 2 and found.get("count") else 0.0
    found["rss_mb"], found["rss_grown_mb"] = rss[-1], rss[-1] - rss[-2] if len(rss) > 2 else 0.0
    return found


def free_pair() -> int:
    """Return a port that was free a moment ago, as was the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def answers(server: Server) -> bool:
    """Whether *server* relays a request."""
    with socket.socket() as plain:
        plain.settimeout(10)
        try:
            plain.connect(("127.0.0.1", server.bench.port))
            plain.sendall(request(server.bench.key.reveal()))
            return plain.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def start(peer: Peer, nodes: Sequence[int], home: Path, stack: ExitStack) -> Server:
    """Start *peer* and wait until it relays. Raises Absent."""
    directory = home / peer.name
    directory.mkdir()
    bench = Bench(directory, free_pair(), nodes, new_key())
    log = directory / "log"
    server = Server(peer, stack.enter_context(started(peer.command(bench), SERVER_CORE, log)), bench)
    deadline = time.monotonic() + START_SECONDS
    while not answers(server):
        if server.process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
            raise Absent(f"did not start: {log.read_text(errors='replace')[-500:].strip()}")
        time.sleep(0.2)
    return server


@dataclass(frozen=True)
class Figure:
    """A column: how it is written, and whether its ratio to nginx's is worth a column of its own."""

    title: str
    pick: Callable[[Found, Found], float]
    form: str = ".0f"
    ratio: bool = False


@dataclass(frozen=True)
class Trial:
    """One kind of load, and what is told of it. *direct* runs it on the mock itself too."""

    title: str
    kind: str
    options: dict[str, object]
    figures: tuple[Figure, ...]
    direct: bool = False


def of(name: str) -> Callable[[Found, Found], float]:
    """Return what picks *name*."""
    return lambda found, _: found[name]


def added(name: str) -> Callable[[Found, Found], float]:
    """Return what picks *name*, less what it is without a gateway."""
    return lambda found, direct: found[name] - direct[name]


TRIALS = (
    Trial(
        "JSON answers, 32 connections",
        "json",
        {"connections": 32},
        (
            Figure("requests/s", of("per_second"), ratio=True),
            Figure("CPU µs/request", of("cpu_us"), ".1f", ratio=True),
            Figure("p99 µs", of("p99_us")),
            Figure("errors", of("errors")),
        ),
    ),
    Trial(
        "JSON answers, 32 connections, prompts of 32 KB",
        "json",
        {"connections": 32, "prompt_bytes": 32 << 10},
        (
            Figure("requests/s", of("per_second"), ratio=True),
            Figure("CPU µs/request", of("cpu_us"), ".1f", ratio=True),
            Figure("errors", of("errors")),
        ),
    ),
    Trial(
        "latency that is added at 1 connection",
        "json",
        {"connections": 1},
        (
            Figure("p50 µs", added("p50_us"), ratio=True),
            Figure("p99 µs", added("p99_us"), ratio=True),
            Figure("errors", of("errors")),
        ),
        direct=True,
    ),
    Trial(
        "256 streams, a token each 10 ms",
        "chunks",
        {"connections": 256},
        (
            Figure("CPU µs/chunk", of("cpu_us"), ".2f", ratio=True),
            Figure("chunks/s", of("per_second")),
            Figure("added delay p99 ms", added("delay_p99_ms"), ".2f"),
            Figure("gap p99 ms", of("gap_p99_ms"), ".2f"),
            Figure("errors", of("errors")),
        ),
        direct=True,
    ),
)
ONCE = (
    Trial("1,000 open streams", "hold", {"connections": 1000, "seconds": 1.0}, (Figure("RSS MB", of("rss_mb")),)),
    Trial(
        "a client that stops reading 92 MB",
        "stall",
        {"seconds": 3.0},
        (Figure("RSS grown MB", of("rss_grown_mb"), ".1f"),),
    ),
    Trial(
        "client gone, node silent: the node knows after",
        "leave",
        {},
        (Figure("p50 ms", of("p50_ms"), ".1f"), Figure("max ms", of("max_ms"), ".1f")),
    ),
)
TRANSLATED = ("/v1/messages", "/v1/responses")


def spread(values: Sequence[float], form: str) -> str:
    """Return the median of *values*, and the range of them if there are several."""
    middle = f"{statistics.median(values):{form}}"
    return f"{middle} ({min(values):{form}}-{max(values):{form}})" if len(values) > 1 else middle


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* in columns, the first of them as a head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def compare(trial: Trial, servers: Sequence[Server], node_ports: Sequence[int], rounds: int, seconds: float) -> None:
    """Run *trial* on all *servers* in turn, *rounds* times, and print what it found."""
    values: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        direct = load(trial.kind, node_ports[0], None, seconds=seconds, **trial.options) if trial.direct else {}
        base: dict[str, float] = {}
        for server in sorted(servers, key=lambda server: server.peer.name != "nginx"):
            key = server.bench.key.reveal()
            options = {"seconds": seconds, **trial.options, "key": key, "node_ports": node_ports}
            found = load(trial.kind, server.bench.port, server, **options)
            for figure in trial.figures:
                value = figure.pick(found, direct)
                values.setdefault((server.peer.name, figure.title), []).append(value)
                if server.peer.name == "nginx":
                    base[figure.title] = value
                if figure.ratio and base.get(figure.title):
                    ratios.setdefault((server.peer.name, figure.title), []).append(value / base[figure.title])
    print(f"\n{trial.title}")
    rows = [["", *(title for figure in trial.figures for title in _titles(figure))]]
    for server in servers:
        row = [server.peer.name]
        for figure in trial.figures:
            row.append(spread(values[server.peer.name, figure.title], figure.form))
            if figure.ratio:
                found_ratios = ratios.get((server.peer.name, figure.title))
                row.append(spread(found_ratios, ".2f") if found_ratios else "-")
        rows.append(row)
    table(rows)


def _titles(figure: Figure) -> list[str]:
    return [figure.title, "x nginx"] if figure.ratio else [figure.title]


def translations(server: Server, rounds: int, seconds: float) -> None:
    """Print how many events a second come out of streams that are translated."""
    rows = [["", "events/s", "CPU µs/event"]]
    for path in TRANSLATED:
        options = {"connections": 4, "seconds": seconds, "key": server.bench.key.reveal(), "path": path}
        found = [load("translated", server.bench.port, server, **options) for _ in range(rounds)]
        rows.append(
            [path, spread([f["per_second"] for f in found], ".0f"), spread([f["cpu_us"] for f in found], ".1f")]
        )
    print("\nstreams that cortex translates")
    table(rows)


def main() -> None:
    """Read the command line, start the peers that can be had, run all trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="trials whose title has this")
    arguments = parser.parse_args()
    wanted = arguments.peers.split(",")
    cores = f"{os.cpu_count()} cores; server on {SERVER_CORE}, load and nodes on {LOAD_CORE}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {cores}")
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node_ports = [free_pair(), free_pair()]
        mock = [sys.executable, str(HERE / "mock_node.py"), *map(str, node_ports)]
        stack.enter_context(started(mock, LOAD_CORE, home / "mock.log"))
        servers = []
        for peer in (peer for peer in PEERS if peer.name in wanted):
            try:
                servers.append(start(peer, node_ports, home, stack))
            except Absent as why:
                print(f"without {peer.name}: {why}")
        for trial in TRIALS:
            if arguments.only in trial.title:
                compare(trial, servers, node_ports, arguments.rounds, arguments.seconds)
        for trial in ONCE:
            if arguments.only in trial.title:
                compare(trial, servers, node_ports, 1, arguments.seconds)
        ours = next((server for server in servers if server.peer.name == "cortex"), None)
        if ours is not None and arguments.only in "translated":
            translations(ours, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
