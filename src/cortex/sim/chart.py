"""Draw what was found as one SVG file, complete in itself: no script, nothing fetched. Same runs, same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from cortex.sim.report import Curve, quantile

WIDTH, LEGEND_TOP, LEGEND_LINE = 960, 362, 20
LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT, GAP = 60, 50, 380, 270, 100
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHORTEST_SECONDS = 0.01
PARTS = 48
POINTS = 200

Point = tuple[float, float]


def draw(curves: Sequence[Curve]) -> str:
    """Return a chart of *curves*: how the waits for a first token are spread, and how long they were over time."""
    longest = max((max(curve.ttft, default=0.0) for curve in curves), default=0.0)
    decades = max(1, math.ceil(math.log10(max(longest, 10 * SHORTEST_SECONDS) / SHORTEST_SECONDS)))
    last = max((max(curve.arrived, default=0.0) for curve in curves), default=0.0) or 1.0
    height = LEGEND_TOP + LEGEND_LINE * len(curves)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        *_frame(0, "Seconds to the first token: share of requests", "100 %", decades, down=False),
        *_frame(1, f"Its 95th percentile over {_lasting(last)}, in seconds", _lasting(last), decades, down=True),
    ]
    for number, curve in enumerate(curves):
        style, y = _style(number), LEGEND_TOP + LEGEND_LINE * number
        parts += [
            _line(0, _shares(curve, decades), style),
            _line(1, _over_time(curve, last, decades), style),
            f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 30}" y2="{y}" {style}/>',
            _text(LEFT + 38, y + 4, curve.name, "start"),
        ]
    return "\n".join([*parts, "</svg>\n"])


def _shares(curve: Curve, decades: int) -> list[Point]:
    """Return, from 0 to 1, which share of the requests had waited no longer than each of some times."""
    ordered = sorted(curve.ttft)
    if not ordered:
        return []
    return [(_height(quantile(ordered, at / POINTS), decades), at / POINTS) for at in range(1, POINTS + 1)]


def _over_time(curve: Curve, last: float, decades: int) -> list[Point]:
    """Return, from 0 to 1, the 95th percentile of each part of the time that had requests."""
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for at, seconds in zip(curve.arrived, curve.ttft, strict=True):
        parts[min(PARTS - 1, int(at / last * PARTS))].append(seconds)
    return [
        ((at + 0.5) / PARTS, _height(quantile(sorted(part), 0.95), decades)) for at, part in enumerate(parts) if part
    ]


def _height(seconds: float, decades: int) -> float:
    """Return where *seconds* are on the logarithmic axis, from 0 to 1."""
    return math.log10(max(seconds, SHORTEST_SECONDS) / SHORTEST_SECONDS) / decades


def _frame(panel: int, title: str, end: str, decades: int, *, down: bool) -> list[str]:
    """Return the axes of a panel: seconds go up if *down* is the time, else to the right."""
    left, bottom = LEFT + panel * (PANEL_WIDTH + GAP), TOP + PANEL_HEIGHT
    parts = [
        f'<text x="{left}" y="{TOP - 18}" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{left}" y="{TOP}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="none" stroke="#999"/>',
    ]
    for decade in range(decades + 1):
        seconds = f"{SHORTEST_SECONDS * 10**decade:g}"
        if down:
            y = bottom - PANEL_HEIGHT * decade / decades
            parts += [_rule(left, y, left + PANEL_WIDTH, y), _text(left - 6, y + 4, seconds, "end")]
        else:
            x = left + PANEL_WIDTH * decade / decades
            parts += [_rule(x, TOP, x, bottom), _text(x, bottom + 16, seconds, "middle")]
    if down:
        return [*parts, _text(left, bottom + 16, "0", "middle"), _text(left + PANEL_WIDTH, bottom + 16, end, "middle")]
    return [*parts, _text(left - 6, bottom, "0", "end"), _text(left - 6, TOP + 8, end, "end")]


def _style(number: int) -> str:
    """Return how a line is drawn: those that lie on others are dashed, so that both are seen."""
    dashes = f' stroke-dasharray="6 {3 * number}"' if number else ""
    return f'fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"{dashes}'


def _line(panel: int, points: Sequence[Point], style: str) -> str:
    left = LEFT + panel * (PANEL_WIDTH + GAP)
    path = " ".join(f"{left + x * PANEL_WIDTH:.1f},{TOP + (1 - y) * PANEL_HEIGHT:.1f}" for x, y in points)
    return f'<polyline points="{path}" {style}/>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#eee"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _lasting(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )
