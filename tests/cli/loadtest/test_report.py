from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from rich.console import Console

from cortex.cli.loadtest.report import as_json, chart, notes, table
from cortex.cli.loadtest.samples import Level, Sample, Spread

FIRST = Sample(0.0, (6.0, 6.1), 6.1, 2)


def level(concurrency: int, rate: float, errors: tuple[str, ...] = (), counted: bool = True) -> Level:
    times = Spread(0.1, 0.2, 0.3)
    return Level(concurrency, 8, 1.0, errors, times, times, times, rate, 4.0, 100, counted)


LEVELS = [level(1, 10), level(2, 20), level(4, 21), level(8, 21.5, errors=("HTTP 429: busy", "HTTP 429: busy"))]


def test_the_table_has_a_row_a_level_and_marks_the_knee() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  rich closes nothing
    with console.file:
        console.print(table(LEVELS))

    printed = console.export_text()
    assert "2 ← knee" in printed
    assert "21.5" in printed
    assert "300.0" in printed


def test_notes_say_what_the_table_does_not() -> None:
    said = notes(LEVELS, FIRST)

    assert said[0].startswith("First request: TTFT 6.00 s")
    assert "Knee at 2 streams (20.0 tok/s)" in said[1]
    assert said[-1] == "2 × HTTP 429: busy"


def test_tokens_that_were_not_counted_by_the_server_are_said_to_be() -> None:
    assert any("does not count tokens" in note for note in notes([level(1, 1, counted=False)], None))


def test_figures_are_json_with_units_in_their_names() -> None:
    figures = json.loads(as_json("m", "http://box", LEVELS, FIRST))

    assert figures["knee"] == 2
    assert figures["first_ttft_seconds"] == 6.0
    assert figures["levels"][0]["ttft"] == {"p50": 0.1, "p90": 0.2, "p99": 0.3}


def test_the_chart_is_a_document_with_a_point_for_each_level() -> None:
    document = ElementTree.fromstring(chart("a <model>", LEVELS))

    points = [element for element in document.iter() if element.tag.endswith("circle")]
    assert len(points) == 2 * len(LEVELS)
    assert any("a <model>" in (element.text or "") for element in document.iter())


def test_a_chart_of_nothing_is_still_a_document() -> None:
    assert ElementTree.fromstring(chart("m", [])) is not None
