"""Faults to order of the simulated engine: what goes wrong, in which stage, and for which prompts.

exit      the process leaves with status 70
abort     abort(), as an assertion inside a native library
kill      SIGKILL, as the kernel's when the machine is out of memory
memory    an allocation fails, and the engine says so
hang      the process lives and its loop does not turn: heartbeats stay out
stall     the loop turns and nothing comes
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from typing import Literal, get_args

from cortex.engines.base import LoadError
from cortex.wire import json

EXIT_STATUS = 70
Kind = Literal["", "exit", "abort", "kill", "memory", "hang", "stall"]
Stage = Literal["load", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of *kind* at *stage*, in decode after *tokens*; only for prompts that hold *text*, if it is not empty."""

    kind: Kind = ""
    stage: Stage = "decode"
    tokens: int = 0
    text: str = ""

    def concerns(self, body: bytes) -> bool:
        """Whether the request *body* is one that it happens to."""
        return bool(self.kind) and json.encode(self.text)[1:-1] in body

    async def strike(self, stage: Stage, tokens: int = 0) -> None:
        """Happen, if this is where. Raises MemoryError, or does not return."""
        if not self.kind or stage != self.stage or tokens < self.tokens:
            return
        print(f"simulated fault, as ordered: {self.kind} in {stage}", file=sys.stderr, flush=True)
        match self.kind:
            case "exit":
                os._exit(EXIT_STATUS)
            case "abort":
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nobody wants the core of a fault to order
                os.abort()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                raise MemoryError
            case "hang":
                while True:
                    time.sleep(3600)  # noqa: ASYNC251 - that the loop stands still is the point
            case "stall":
                await asyncio.get_running_loop().create_future()


NO_FAULT = Fault()


def read_fault(kind: str, stage: str, tokens: int, text: str) -> Fault:
    """Return the fault that options ask for. Raises LoadError naming the one that is wrong."""
    for name, value, known in (("fault", kind, get_args(Kind)), ("fault_at", stage, get_args(Stage))):
        if value not in known:
            raise LoadError(f"options.{name} = {value!r}: expected one of {', '.join(filter(None, known))}")
    return Fault(kind, stage, tokens if stage == "decode" else 0, text)  # type: ignore[arg-type]
