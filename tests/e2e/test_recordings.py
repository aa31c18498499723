"""What real clients were recorded to send, answered in their grammar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import Fleet

CLIENTS = Path(__file__).resolve().parents[3] / "shared" / "clients"
MODELS = """
[[models]]
id = "org/sim"
engine = "simulated"
options = { load_seconds = 0.1, tokens_per_second = 2000 }
"""


@pytest.mark.skipif(not CLIENTS.exists(), reason="the recorded clients are not beside this checkout")
def test_every_recorded_request_is_answered_in_its_dialect_s_grammar(fleet: Fleet) -> None:
    gateway = fleet.gateway(MODELS, {"a": fleet.neuron("a").port})
    done = subprocess.run(
        [sys.executable, str(CLIENTS / "replay.py"), gateway.url, "org/sim"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "failed 0" in done.stdout
    assert gateway.events("request_crashed") == []
