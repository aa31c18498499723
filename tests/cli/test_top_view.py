"""A frame says what goes on, fits 80 columns, and takes nothing for markup."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cortex.cli.top_view import METER_CELLS, frame, lost, meter

GIB = 1 << 30
FLEET: dict[str, Any] = {
    "nodes": [
        {
            "name": "beast",
            "healthy": True,
            "devices": [
                {
                    "name": "RTX [b]4090[/b] with a name that does not end",
                    "total_bytes": 24 * GIB,
                    "free_bytes": 6 * GIB,
                    "utilization_percent": 97.0,
                    "temperature_celsius": 71.0,
                }
            ],
            "replicas": [
                {"model": "org/qwen3", "state": "ready", "in_flight": 3, "slots": 4, "tokens_per_second": 41.5},
                {"model": "org/big", "state": "loading", "progress": "weights 40%", "slots": 1},
            ],
        },
        {"name": "attic", "healthy": False, "reason": "does not answer", "devices": [], "replicas": []},
    ],
    "waiting": {"org/qwen3": 2, "org/cold": 1},
}
MINUTES = [{"tokens_per_second": 80.5, "ttft_p95_seconds": 1.25, "errors": 2}]
DECISIONS = [
    {"time": 0.0, "kind": "planned", "model": "org/big", "node": "beast", "reason": "fits"},
    {"time": 1.0, "kind": "load_started", "model": "org/big", "node": "beast", "reason": "fits " * 40},
]


def printed(view: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_frame_says_what_goes_on_at_80_columns() -> None:
    text = printed(frame(FLEET, MINUTES, DECISIONS))

    assert "1 of 2 nodes, 3 in flight, 3 waiting, 80.5 tok/s, TTFT p95 1.25 s, 2 errors" in text
    for told in ("RTX [b]4090", "18.0 of 24.0 GiB", "97%", "71°", "weights 40%", "3 of 4", "41.5", "nowhere yet"):
        assert told in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_last_decision_comes_first_and_takes_one_line() -> None:
    lines = printed(frame(FLEET, MINUTES, DECISIONS)).splitlines()

    assert "load started org/big on beast" in lines[-2]
    assert "planned" in lines[-1]


def test_an_empty_fleet_has_a_frame_too() -> None:
    assert "0 of 0 nodes" in printed(frame({}, [], []))


def test_a_gateway_that_is_gone_is_said_above_what_was_seen_last() -> None:
    lines = printed(lost(frame(FLEET, MINUTES, []), "no gateway answers")).splitlines()

    assert lines[0] == "no gateway answers"


@pytest.mark.parametrize(("share", "full"), [(-1, 0), (0.5, METER_CELLS // 2), (1, METER_CELLS), (7, METER_CELLS)])
def test_a_meter_is_filled_to_its_share(share: float, full: int) -> None:
    assert meter(share).count("█") == full
    assert len(meter(share)) == METER_CELLS
