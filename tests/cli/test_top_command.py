"""`cortex top --once` asks three things and prints one frame; a terminal's loop ends at q."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from cortex.cli.main import cortex

from .conftest import CannedGateway

FLEET = {"nodes": [{"name": "beast", "healthy": True, "devices": [], "replicas": []}], "waiting": {"cold": 3}}


def filled(gateway: CannedGateway) -> CannedGateway:
    gateway.answers["/fleet"] = (200, json.dumps(FLEET).encode())
    gateway.answers["/fleet/history?since=2m"] = gateway.answers["/fleet/decisions?limit=8"] = (200, b'{"data": []}')
    return gateway


def test_one_frame_for_a_pipe(gateway: CannedGateway) -> None:
    result = CliRunner().invoke(cortex, ["top", "--once", "-e", filled(gateway).url])

    assert result.exit_code == 0, result.output
    assert "1 of 1 nodes" in result.stdout
    assert "3 waiting" in result.stdout


def test_without_a_gateway_it_says_what_to_do(gateway: CannedGateway) -> None:
    result = CliRunner().invoke(cortex, ["top", "--once", "-e", "http://127.0.0.1:9"])

    assert result.exit_code == 1
    assert "no gateway answers" in result.stderr


def test_on_a_terminal_it_goes_on_until_q(gateway: CannedGateway) -> None:
    ours, theirs = pty.openpty()
    program = [str(Path(sys.executable).parent / "cortex"), "top", "--every", "0.2", "-e", filled(gateway).url]
    process = subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while shown.count(b"1 of 1 nodes") < 2:
        shown += os.read(ours, 65536)
    os.write(ours, b"q")

    assert process.wait(20) == 0
    os.close(ours)
