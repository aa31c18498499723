"""The pages that are written from the code: `make docs`. A test compares what is written with what would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from generate import api, command_line, configuration, metrics

DOCS = Path(__file__).parents[1]
PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "command-line.md": command_line.page,
    "configuration.md": configuration.page,
    "metrics.md": metrics.page,
}
