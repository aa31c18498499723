"""`cortex simulate`: a fleet that need not exist, in virtual time, decided over by the code that runs a real one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cortex.cli.failures import Failure, Misconfigured, configuration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cortex.sim.description import Fleet, Strategy
    from cortex.sim.run import Result
    from cortex.sim.trace import Arrival

STRATEGIES = ("lru", "priority")
# As a shell tells of what SIGINT has ended.
INTERRUPTED = 130


def _strategies(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))
    strange = next((name for name in names if name not in STRATEGIES), None)
    if strange is not None:
        raise click.BadParameter(f"{strange!r} is none of {', '.join(STRATEGIES)}")
    return names


@click.command()
@click.option(
    "--fleet",
    "fleets",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="The fleet, as TOML; several are compared.",
)
@click.option(
    "--policy",
    "strategies",
    metavar="NAMES",
    callback=_strategies,
    help="Compare these: lru, priority, or both with a comma.  [default: what the fleet's file says]",
)
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Replay these requests.")
@click.option("--requests", type=click.IntRange(min=1), help="Make up so many requests instead.")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True, max=8784), help="... over so many hours.  [default: 24]"
)
@click.option("--seed", type=int, help="... the same ones for the same seed.  [default: 1]")
@click.option(
    "--shape", type=click.Choice(["diurnal", "flat"]), help="... with the rhythm of a day, or none.  [default: diurnal]"
)
@click.option(
    "--zipf", type=click.FloatRange(min=0, max=10), help="... how much the first models are preferred.  [default: 1.0]"
)
@click.option(
    "--sessions", type=click.FloatRange(0, 1), help="... the fraction in growing conversations.  [default: 0.5]"
)
@click.option(
    "--bursts", type=click.IntRange(0, 10_000), help="... so many five-minute bursts at one model.  [default: 0]"
)
@click.option(
    "--prompt-tokens", type=click.IntRange(1, 1_000_000), help="... the mean of new prompt tokens.  [default: 400]"
)
@click.option(
    "--completion-tokens", type=click.IntRange(1, 1_000_000), help="... the mean of an answer.  [default: 200]"
)
@click.option("--write-trace", type=click.Path(path_type=Path), metavar="FILE", help="... and keep them in this file.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE", help="Draw the waits, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures instead of tables.")
def simulate(
    fleets: tuple[Path, ...],
    strategies: tuple[Strategy, ...],
    trace: Path | None,
    requests: int | None,
    write_trace: Path | None,
    chart: Path | None,
    as_json: bool,
    **made_up: Any,
) -> None:
    """Replay traffic on a fleet you need not own.

    The very code that runs the gateway decides, in virtual time: a day takes seconds, and the same input always gives
    the same figures. The requests come from a trace, one a line, as `cortex record` writes it:

    \b
      {"at": 0.0, "model": "qwen3", "prompt_tokens": 900, "completion_tokens": 150, "session": "a"}

    or are made up by --requests and the options below it, for the models in the order of the fleet's file, of which
    the first is the most popular. Ctrl-C shows what was found so far.

    \b
    Examples:
      cortex simulate --fleet fleet.toml --trace trace.jsonl
      cortex simulate --fleet fleet.toml --requests 100000 --hours 24
      cortex simulate --fleet fleet.toml --requests 5000 --hours 1 --bursts 3 --policy lru,priority --chart waits.svg
      cortex simulate --fleet now.toml --fleet with-two-more.toml --trace trace.jsonl --json | jq '.runs[].ttft_seconds'
      cortex simulate --fleet fleet.toml --requests 1000 --write-trace trace.jsonl
    """
    from cortex.sim.description import load_fleet
    from cortex.sim.trace import write_trace as write

    if trace is not None and write_trace is not None:
        raise Misconfigured("--write-trace keeps requests that are made up; those of --trace are in a file already")
    with configuration():
        described = [load_fleet(path) for path in fleets]
        requested = _requested(described[0], trace, requests, made_up)
        if write_trace is not None:
            write(write_trace, requested.arrivals())
        results = _run(described, strategies, requested)
    if chart is not None:
        _write_chart(chart, results)
    _tell(results, as_json)
    if not results[-1].report.complete:
        click.echo("interrupted: these are the figures up to then", err=True)
        click.get_current_context().exit(INTERRUPTED)


@dataclass(frozen=True, slots=True)
class _Requested:
    """The requests, anew for each run, and about how many they are."""

    arrivals: Callable[[], Iterable[Arrival]]
    count: int


def _requested(fleet: Fleet, trace: Path | None, requests: int | None, made_up: Mapping[str, Any]) -> _Requested:
    """Return the requests of the file *trace*, or those that are to be made up for the models of *fleet*."""
    from cortex.sim.generate import Wish, generate
    from cortex.sim.trace import count_lines, read_trace

    given = {key: value for key, value in made_up.items() if value is not None}
    if trace is not None:
        if requests is not None or given:
            option = "requests" if requests is not None else min(given).replace("_", "-")
            raise Misconfigured(f"--trace says what is asked for, and so does --{option}: keep one of the two")
        return _Requested(lambda: read_trace(trace), count_lines(trace))
    if requests is None:
        raise Misconfigured("what is to be asked for? Name a file with --trace FILE, or make requests up: --requests N")
    models, wish = list(fleet.catalogue), Wish(requests, **given)
    if not models:
        raise Misconfigured(f"{fleet.name} has no [[models]] to make up requests for")
    return _Requested(lambda: generate(wish, models), requests)


def _run(fleets: Sequence[Fleet], strategies: Sequence[Strategy], requested: _Requested) -> list[Result]:
    """Return the results of all runs, or, after Ctrl-C, of those up to then."""
    from cortex.sim.errors import SimulationError
    from cortex.sim.run import compare

    try:
        with _progress(requested.count) as on_progress:
            return list(compare(fleets, strategies, requested.arrivals, on_progress))
    except SimulationError as error:
        raise Failure(f"{error}; this is a defect of cortex, please report it with both files") from None


@contextmanager
def _progress(total: int) -> Generator[Callable[[str, int], None], None, None]:
    """Show how far each run is, on stderr and only if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, settled: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=settled)

        yield on_progress


def _write_chart(path: Path, results: Sequence[Result]) -> None:
    from cortex.sim.chart import draw

    try:
        path.write_text(draw([result.curve for result in results]), encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None


def _tell(results: Sequence[Result], as_json: bool) -> None:
    from cortex.cli.sim_tables import models_table, nodes_table, runs_table
    from cortex.cli.tables import show

    reports = [result.report for result in results]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"runs": reports}), indent=2).decode())
        return
    show(runs_table(reports))
    for report in reports:
        click.echo(f"\n{report.fleet}, {report.policy}")
        show(models_table(report))
        show(nodes_table(report))
