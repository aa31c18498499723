"""Run a load test in front of somebody: progress on stderr, the table on stdout, chart and figures into files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from cortex.cli.failures import Misconfigured
from cortex.cli.loadtest.report import as_json, chart, notes, table
from cortex.cli.loadtest.run import Wanted, Watch, measure
from cortex.cli.loadtest.samples import Level, Sample
from cortex.cli.steps import Steps
from cortex.cli.tables import show

INTERRUPTED = 130


def run_and_show(wanted: Wanted, url: str, chart_file: Path | None, figures_file: Path | None) -> int:
    """Measure, print, write the files, and return the exit status. Raises Failure, Misconfigured."""
    levels: list[Level] = []
    first: Sample | None = None
    for file in (chart_file, figures_file):
        if file is not None:
            _write(file, b"")
    interrupted = False
    try:
        with Steps() as steps:
            first = asyncio.run(measure(wanted, levels.append, _watch(steps, wanted.ask.model)))
    except KeyboardInterrupt:
        interrupted = True
        click.echo("\nEnded early: these levels are complete.", err=True)
    if levels:
        show(table(levels))
    for note in notes(levels, first):
        click.echo(note)
    if chart_file is not None:
        _write(chart_file, chart(wanted.ask.model, levels).encode())
    if figures_file is not None:
        _write(figures_file, as_json(wanted.ask.model, url, levels, first))
    if interrupted:
        return INTERRUPTED
    return 1 if any(level.errors for level in levels) else 0


def _watch(steps: Steps, model: str) -> Watch:
    def waiting(text: str) -> None:
        steps.show(text)

    def progress(concurrency: int, ended: int, requests: int) -> None:
        steps.show(f"{model}, {concurrency} streams: {100 * ended // requests}% of {requests} requests")

    return Watch(waiting, progress)


def _write(file: Path, content: bytes) -> None:
    """Write *content*; an empty one, before hours of measuring, to find out that it can be. Raises Misconfigured."""
    try:
        if content:
            file.write_bytes(content)
        else:
            file.touch()
    except OSError as error:
        raise Misconfigured(f"{file}: {error.strerror or error}") from None
