"""Fleets and policies are compared on the same requests, and the same input always gives the same figures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex.sim.description import Behaviour
from cortex.sim.generate import Wish, generate
from cortex.sim.run import compare, simulate
from cortex.sim.trace import Arrival

from .fleets import arrivals, fleet, machine

MODELS = {name: Behaviour(memory="11 GB", load_seconds=1.0) for name in ("a", "b")}
FLEET = fleet([machine("n0", 16), machine("n1", 16)], MODELS)


def test_every_fleet_meets_every_policy() -> None:
    """In the order that they are named in; without a policy, its own."""
    trace = arrivals("a", 0.0, 1.0)

    results = list(compare([FLEET, FLEET], ["lru", "priority"], lambda: trace))

    assert [result.report.policy for result in results] == ["lru", "priority", "lru", "priority"]
    assert [result.report.policy for result in compare([FLEET], [], lambda: trace)] == ["lru"]
    assert len({result.report.ttft_seconds for result in results}) == 1


def test_ctrl_c_ends_with_what_was_found_so_far() -> None:
    """And begins no further run."""

    def interrupted() -> Iterator[Arrival]:
        yield from arrivals("a", 0.0, 100.0)
        raise KeyboardInterrupt

    results = list(compare([FLEET], ["lru", "priority"], interrupted))

    assert [(result.report.complete, result.report.answered) for result in results] == [(False, 1)]


def test_progress_is_told_up_to_the_last_request() -> None:
    """With the name of the run."""
    told: list[tuple[str, int]] = []

    list(compare([FLEET], ["lru"], lambda: arrivals("a", 0.0, 1.0), lambda *told_now: told.append(told_now)))

    assert told[-1] == ("test, lru", 2)


def test_no_requests_are_no_trouble() -> None:
    """A report of nothing."""
    assert simulate(FLEET, "lru", []).report.requests == 0


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import msgspec
from cortex.sim.description import load_fleet
from cortex.sim.generate import Wish, generate
from cortex.sim.run import simulate
from pathlib import Path

fleet = load_fleet(Path(sys.argv[2]))
trace = generate(Wish(300, hours=0.5, bursts=2), list(fleet.catalogue))
sys.stdout.buffer.write(msgspec.json.encode(simulate(fleet, "lru", trace).report))
"""


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    """Whatever its hashes of strings are."""
    example = Path(__file__).parents[2] / "examples" / "fleet.toml"

    def output(seed: str) -> bytes:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(example)]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(command, env=env, check=True, capture_output=True, timeout=60).stdout

    assert output("1") == output("2") != b""


@pytest.mark.parametrize("strategy", ["lru", "priority"])
def test_a_busy_hour_is_simulated_to_its_end(strategy: str) -> None:
    """With more models than room."""
    models = {f"m{number}": Behaviour(memory=f"{5 + number} GB", load_seconds=2.0) for number in range(6)}
    described = fleet([machine("n0", 16), machine("n1", 16)], models)

    report = simulate(described, strategy, generate(Wish(500, hours=1.0), list(models))).report  # type: ignore[arg-type]

    assert report.answered + sum(report.refused.values()) == 500
    assert report.evictions > 0
