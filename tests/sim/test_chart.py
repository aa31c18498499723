"""The chart is one SVG file that needs nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from array import array

from cortex.sim.chart import draw
from cortex.sim.report import Curve

SVG = "{http://www.w3.org/2000/svg}"


def curve(name: str, *ttft: float) -> Curve:
    return Curve(name, array("d", [float(at) for at in range(len(ttft))]), array("d", ttft))


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = ET.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()] for line in lines]  # type: ignore[misc]


def test_each_run_has_a_line_in_both_panels_and_a_name() -> None:
    """The name is text, whatever is in it."""
    svg = draw([curve("now & then, lru", 0.1, 1.0, 10.0), curve("<b>", 0.2)])

    texts = [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]
    assert len(points(svg)) == 4
    assert {"now & then, lru", "<b>"} <= set(texts)


def test_nothing_is_fetched_and_nothing_runs() -> None:
    """No script, no style sheet, no font, no image."""
    svg = draw([curve("a", 0.1, 1.0)])

    assert svg.count("http") == 1
    assert {element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter()} <= {
        "svg",
        "rect",
        "text",
        "line",
        "polyline",
    }


def test_lines_stay_within_their_panels_and_shares_only_rise() -> None:
    """From the shortest wait on the left to the longest on the right."""
    shares, over_time = points(draw([curve("a", *(0.001 * 2**n for n in range(20)))]))

    assert shares == sorted(shares, key=lambda point: (point[0], -point[1]))
    assert all(60 <= x <= 440 and 50 <= y <= 320 for x, y in shares)
    assert all(540 <= x <= 920 and 50 <= y <= 320 for x, y in over_time)


def test_no_requests_make_an_empty_chart() -> None:
    """Which is a chart all the same."""
    assert points(draw([curve("a")])) == [[], []]


def test_the_same_runs_make_the_same_bytes() -> None:
    """So that charts can be compared."""
    assert draw([curve("a", 0.5, 0.7)]) == draw([curve("a", 0.5, 0.7)])
