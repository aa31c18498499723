"""What an installation brings along."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

STACKS = {"xllamacpp", "torch", "transformers", "vllm", "llama-cpp-python", "numpy"}
ROOT = Path(__file__).resolve().parents[1]


def test_the_gateway_alone_pulls_no_inference_stack() -> None:
    always = {
        re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requires("cortex-fleet") or () if "extra ==" not in line
    }

    assert {"uvicorn", "httptools", "msgspec"} <= always
    assert not always & STACKS


def test_the_programs_start_without_an_inference_stack() -> None:
    code = (
        "import sys; import cortex.gateway.app, cortex.neuron.app, cortex.cli.main; "
        f"print(sorted({STACKS!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_pins_carry_versions_and_no_addresses() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert pins
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s/@]+", pin) for pin in pins)
