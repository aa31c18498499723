"""The example of placement is what happens: its commands are run in their order, its output is theirs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from docs.pages import Block, blocks
from docs.stack import Stack
from harness import Fleet, until

pytestmark = pytest.mark.e2e
POLLS_SECONDS = 10.0
SHOWN = [block for block in blocks() if block.page == "placement.md"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The two machines of the page, with its catalogue."""
    fleet = Fleet(tmp_path)
    try:
        nodes = {name: fleet.neuron(name, config=_device(gb)).port for name, gb in (("beast", 24), ("cupboard", 12))}
        gateway = fleet.gateway(SHOWN[0].text, nodes, name="cortex")
        until("both nodes are seen", lambda: gateway.get("/health")["nodes"]["healthy"] == 2)
        yield Stack(fleet, {})
    finally:
        fleet.close()


def test_the_example_is_what_happens(stack: Stack, tmp_path: Path) -> None:
    compared = 0
    for commands, printed in pairwise([*SHOWN, Block("", 0, "", "")]):
        if commands.language == "sh" and printed.language == "text":
            assert said(commands.text, plain(printed.text), stack, tmp_path) == plain(printed.text)
            compared += 1
        elif commands.language == "sh":
            run(commands.text, stack, tmp_path)

    assert compared == 2


def said(text: str, expected: str, stack: Stack, home: Path) -> str:
    """Return what the commands print once it is as *expected*, or after some polls: a view of a node is as old."""
    with suppress(AssertionError):
        until("what is printed", lambda: plain(run(text, stack, home)) == expected, POLLS_SECONDS)
    return plain(run(text, stack, home))


def run(text: str, stack: Stack, home: Path) -> str:
    environment = stack.environment(home) | {"COLUMNS": "140"}
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain(text: str) -> str:
    """Return *text* without times, which are those of one run."""
    return re.sub(r"\d+(\.\d+)? s\b", "… s", text).strip()


def _device(gb: int) -> str:
    return f'[[simulated_devices]]\nname = "Simulated {gb} GB"\nmemory_mb = {gb << 10}\n'
