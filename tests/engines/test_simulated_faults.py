"""Faults to order: which are understood, whom they concern, and how a process ends of each."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cortex.engines.base import LoadError
from cortex.engines.simulated_faults import EXIT_STATUS, Fault, read_fault

DYING = """
import asyncio
from cortex.engines.simulated_faults import read_fault
asyncio.run(read_fault({kind!r}, "prefill", 0, "").strike("prefill"))
"""


@pytest.mark.parametrize(
    ("kind", "status"), [("exit", EXIT_STATUS), ("abort", -signal.SIGABRT), ("kill", -signal.SIGKILL)]
)
def test_a_process_ends_as_ordered_and_says_that_it_was(kind: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DYING.format(kind=kind)], capture_output=True, text=True, timeout=20, check=False
    )

    assert ended.returncode == status
    assert ended.stderr == f"simulated fault, as ordered: {kind} in prefill\n"


@pytest.mark.parametrize(
    ("body", "concerned"),
    [(b'{"prompt":"say \\"BOOM\\" now"}', True), (b'{"prompt":"say boom"}', False), ("häßlich".encode(), False)],
)
def test_a_poison_concerns_the_prompts_that_hold_its_text(body: bytes, concerned: bool) -> None:
    assert Fault("abort", "prefill", text='"BOOM"').concerns(body) is concerned


def test_an_order_without_a_text_concerns_everyone_and_no_order_nobody() -> None:
    assert Fault("hang").concerns(b"{}")
    assert not Fault(text="x").concerns(b"x")


@pytest.mark.parametrize(
    ("kind", "stage", "said"), [("explode", "load", "options.fault = 'explode'"), ("exit", "sleep", "options.fault_at")]
)
def test_what_is_no_fault_is_refused_by_name(kind: str, stage: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        read_fault(kind, stage, 0, "")
