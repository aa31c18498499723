"""What `cortex bench` prints and writes: a table, JSON, and a chart as SVG that any browser shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import msgspec
from rich.table import Table

from cortex.cli.loadtest.samples import Level, Sample, Spread, knee
from cortex.cli.tables import plain_table

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 300, 64, 44, 40
_COLOURS = ("#1f6f8b", "#c0562f")


def _milliseconds(value: Spread | None) -> tuple[str, str, str]:
    if value is None:
        return "–", "–", "–"
    return f"{value.p50 * 1000:.1f}", f"{value.p90 * 1000:.1f}", f"{value.p99 * 1000:.1f}"


def table(levels: Sequence[Level]) -> Table:
    """Return the levels as rows, times in milliseconds; the knee is marked."""
    bend = knee(levels)
    printed = plain_table("streams", "requests", "errors", "tok/s", "req/s", "TTFT p50", "p90", "p99", "ITL p50", "p99")
    for column in printed.columns:
        column.justify = "right"
    for level in levels:
        ttft, itl = _milliseconds(level.ttft), _milliseconds(level.itl)
        printed.add_row(
            f"{level.concurrency}{' ← knee' if level is bend else ''}",
            str(level.requests),
            str(len(level.errors)),
            f"{level.output_rate:.1f}",
            f"{level.request_rate:.2f}",
            *ttft,
            itl[0],
            itl[2],
        )
    return printed


def notes(levels: Sequence[Level], first: Sample | None) -> list[str]:
    """Return what the table does not say: the first request, the knee, how tokens were counted, and what went wrong."""
    said = [f"First request: TTFT {first.ttft:.2f} s. It is not in the table."] if first and first.pieces else []
    if bend := knee(levels):
        said.append(f"Knee at {bend.concurrency} streams ({bend.output_rate:.1f} tok/s): more streams add little.")
    if not all(level.counted for level in levels):
        said.append("The server does not count tokens of a stream: one was counted for each piece that came.")
    causes = Counter(error for level in levels for error in level.errors)
    said += [f"{count} × {error}" for error, count in causes.most_common()]
    return said


def as_json(model: str, url: str, levels: Sequence[Level], first: Sample | None) -> bytes:
    """Return all figures; times in seconds, rates a second."""
    bend = knee(levels)
    whole: dict[str, Any] = {
        "model": model,
        "url": url,
        "first_ttft_seconds": first.ttft if first and first.pieces else None,
        "knee": bend.concurrency if bend else None,
        "levels": levels,
    }
    return msgspec.json.format(msgspec.json.encode(whole)) + b"\n"


def chart(model: str, levels: Sequence[Level]) -> str:
    """Return throughput and median TTFT over concurrency, each scaled to its own largest value, as an SVG document."""
    drawn = [level for level in levels if level.requests]
    rates = [level.output_rate for level in drawn]
    waits = [level.ttft.p50 * 1000 if level.ttft else 0.0 for level in drawn]
    lines = [
        _line(drawn, rates, _COLOURS[0], f"{max(rates, default=0):.1f} tok/s", 0),
        _line(drawn, waits, _COLOURS[1], f"TTFT p50 {max(waits, default=0):.1f} ms", 1),
    ]
    ticks = "".join(
        f'<text x="{_x(drawn, index):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{level.concurrency}</text>'
        for index, level in enumerate(drawn)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(model)}: streams under way at once</text>'
        f'<path d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - 24}" fill="none" stroke="#888888"/>'
        f"{ticks}{''.join(lines)}</svg>\n"
    )


def _x(levels: Sequence[Level], index: int) -> float:
    return _LEFT + 16 + index * (_WIDTH - _LEFT - 56) / max(1, len(levels) - 1)


def _line(levels: Sequence[Level], values: Sequence[float], colour: str, label: str, row: int) -> str:
    """Return one curve with its points, and above the chart what its top stands for."""
    top = max(values, default=0.0) or 1.0
    heights = [_HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - _TOP) for value in values]
    points = [(_x(levels, index), y) for index, y in enumerate(heights)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
        f'<text x="{_WIDTH - 24}" y="{18 + 16 * row}" text-anchor="end" fill="{colour}">top: {escape(label)}</text>'
    )
