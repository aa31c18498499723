"""`cortex simulate` says what would have become of requests, as tables, as JSON and as a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cortex.cli.sim_commands import simulate
from cortex.sim import run
from cortex.sim.errors import SimulationError
from cortex.sim.trace import read_trace

EXAMPLES = Path(__file__).parents[2] / "examples"
FLEET = str(EXAMPLES / "fleet.toml")
TRACE = str(EXAMPLES / "trace.jsonl")


def invoke(*args: str) -> Result:
    return CliRunner().invoke(simulate, list(args))


def runs(*args: str) -> list[dict[str, Any]]:
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.output
    reports: list[dict[str, Any]] = json.loads(result.stdout)["runs"]
    return reports


def test_the_examples_are_shown_as_tables() -> None:
    """The runs side by side; then models and nodes of each."""
    result = invoke("--fleet", FLEET, "--trace", TRACE, "--policy", "lru,priority")

    assert result.exit_code == 0, result.output
    for shown in ("fleet, lru", "fleet, priority", "to the first token: p50", "qwen3-coder-30b", "cupboard"):
        assert shown in result.stdout
    assert result.stderr == ""


def test_json_has_every_figure() -> None:
    """Of each fleet under each policy."""
    reports = runs("--fleet", FLEET, "--fleet", FLEET, "--trace", TRACE, "--policy", "priority, lru")

    assert [report["policy"] for report in reports] == ["priority", "lru", "priority", "lru"]
    assert all(report["requests"] == 120 and report["complete"] for report in reports)
    assert reports[0]["evictions"] > 0
    assert set(reports[0]["ttft_seconds"]) == {"mean", "p50", "p90", "p99", "max"}
    assert [node["node"] for node in reports[0]["nodes"]] == ["beast-1", "beast-2", "cupboard"]


def test_without_a_policy_the_fleets_own_is_taken() -> None:
    """As its file says."""
    assert [report["policy"] for report in runs("--fleet", FLEET, "--trace", TRACE)] == ["lru"]


def test_made_up_requests_can_be_kept_and_replayed(tmp_path: Path) -> None:
    """With the same figures."""
    kept = tmp_path / "kept.jsonl"

    made_up = runs("--fleet", FLEET, "--requests", "50", "--hours", "0.5", "--seed", "7", "--write-trace", str(kept))

    assert len(list(read_trace(kept))) == 50
    assert runs("--fleet", FLEET, "--trace", str(kept)) == made_up


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    """Beside the figures."""
    result = invoke("--fleet", FLEET, "--trace", TRACE, "--chart", str(tmp_path / "waits.svg"))

    assert result.exit_code == 0
    assert (tmp_path / "waits.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Missing option '--fleet'"),
        (("--fleet", "none.toml", "--requests", "1"), "none.toml: no such file"),
        (("--fleet", FLEET), "what is to be asked for? Name a file with --trace FILE"),
        (("--fleet", FLEET, "--trace", "none.jsonl"), "none.jsonl: No such file"),
        (("--fleet", FLEET, "--trace", TRACE, "--requests", "5"), "so does --requests: keep one of the two"),
        (("--fleet", FLEET, "--trace", TRACE, "--prompt-tokens", "5"), "so does --prompt-tokens"),
        (("--fleet", FLEET, "--trace", TRACE, "--write-trace", TRACE), "--write-trace keeps requests that are made up"),
        (("--fleet", FLEET, "--trace", TRACE, "--policy", "lru,fifo"), "'fifo' is none of lru, priority"),
        (("--fleet", FLEET, "--trace", FLEET), "fleet.toml:1: "),
    ],
)
def test_what_is_wrong_ends_with_2_and_a_word_about_it(args: tuple[str, ...], message: str) -> None:
    """Before anything is simulated."""
    result = invoke(*args)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_broken_promise_is_a_failure_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is told so."""

    def broken(*_: object) -> None:
        raise SimulationError("a request was lost")

    monkeypatch.setattr(run, "simulate", broken)

    result = invoke("--fleet", FLEET, "--trace", TRACE)

    assert result.exit_code == 1
    assert "a request was lost; this is a defect of cortex" in result.stderr


def test_ctrl_c_shows_what_was_found_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that it is not all."""
    from cortex.sim.world import World

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "run", interrupted)

    result = invoke("--fleet", FLEET, "--trace", TRACE)

    assert result.exit_code == 130
    assert "0 s, interrupted" in result.stdout
    assert "interrupted: these are the figures up to then" in result.stderr


def test_a_chart_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    """Named by its file."""
    result = invoke("--fleet", FLEET, "--trace", TRACE, "--chart", str(tmp_path / "none" / "waits.svg"))

    assert result.exit_code == 1
    assert "waits.svg: No such file or directory" in result.stderr


def test_help_teaches_by_example() -> None:
    """What a trace looks like, and what to type."""
    text = invoke("--help").stdout

    assert '{"at": 0.0, "model": "qwen3"' in text
    assert "cortex simulate --fleet fleet.toml --trace trace.jsonl" in text
