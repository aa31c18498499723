"""`cortex record`: write what clients ask of a gateway as a trace, a line a request, for as long as it is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import click
import msgspec

from cortex.cli.failures import Failure
from cortex.cli.fleet_client import Entry, Lost, listen
from cortex.cli.steps import Steps

RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Recording:
    """Owns the trace: when it began, by the *clock* of this machine, and what is in it."""

    output: BinaryIO
    began: float
    requests: int = 0
    missed: int = 0
    gaps: int = 0
    _origin: float | None = None

    def take(self, entry: Entry, now: float) -> None:
        """Write *entry*, heard at *now*, if it is a request that came since the beginning."""
        if entry.kind == "missed":
            self.missed += entry.count
        if entry.kind != "request":
            return
        # The gateway's clock need not be ours: when the recording began is reckoned in its time.
        if self._origin is None:
            self._origin = entry.time - (now - self.began)
        if entry.arrived >= self._origin:
            self.output.write(trace_line(entry, self._origin))
            self.output.flush()
            self.requests += 1

    def summary(self, now: float) -> str:
        """Return what there is, and what is known to be missing."""
        told = [f"{_count(self.requests, 'request')} in {duration(now - self.began)}"]
        if self.gaps:
            told.append(f"{_count(self.gaps, 'gap')} while the gateway was away")
        if self.missed:
            told.append(f"{self.missed} missed, as they came faster than they could be sent here")
        return ", ".join(told)


def trace_line(entry: Entry, origin: float) -> bytes:
    """Return a request as a line of a trace that began at *origin*, in the gateway's time."""
    arrived = datetime.fromtimestamp(entry.arrived, UTC)
    line = {
        "at": round(entry.arrived - origin, 3),
        "time": arrived.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "model": entry.model,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "session": entry.session,
        "stream": entry.stream,
    }
    return msgspec.json.encode(line) + b"\n"


class Recorder:
    """Follows one gateway, over its restarts, into a `Recording`; progress and gaps are told on stderr."""

    def __init__(
        self,
        endpoint: str,
        output: BinaryIO,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endpoint, self._clock, self._pause = endpoint, clock, pause
        self._lost_at: float | None = None
        self._heard = False
        self._steps = Steps() if sys.stderr.isatty() else None
        self.recording = Recording(output, clock())

    def run(self, seconds: float | None) -> None:
        """Record for *seconds*, or until interrupted. Raises Failure when the gateway was never there, or refuses."""
        end = None if seconds is None else self._clock() + seconds
        try:
            while not self._is_over(end):
                self._follow(end)
        finally:
            self._clear()

    def summary(self) -> str:
        """Return what was recorded so far."""
        return self.recording.summary(self._clock())

    def _is_over(self, end: float | None) -> bool:
        return end is not None and self._clock() >= end

    def _follow(self, end: float | None) -> None:
        """Listen until the end, or until the gateway is lost; then wait a little."""
        try:
            with closing(listen(self._endpoint)) as entries:
                for entry in entries:
                    self._hear(entry)
                    if self._is_over(end):
                        return
        except Lost as lost:
            if not self._heard:
                raise Failure(str(lost)) from None
            if self._lost_at is None:
                self._lost_at = self._clock()
                self._tell(f"the gateway is gone ({lost}); waiting for it")
            self._pause(RETRY_SECONDS)

    def _hear(self, entry: Entry | None) -> None:
        now = self._clock()
        if self._lost_at is not None:
            self.recording.gaps += 1
            self._tell(f"the gateway is back; {duration(now - self._lost_at)} are not in the trace")
        elif not self._heard:
            self.recording.began = now
        self._heard, self._lost_at = True, None
        if entry is not None:
            self.recording.take(entry, now)
        if self._steps is not None:
            self._steps.show(f"recording: {self.recording.summary(now)} · Ctrl-C ends")

    def _tell(self, text: str) -> None:
        self._clear()
        click.echo(text, err=True)

    def _clear(self) -> None:
        if self._steps is not None:
            self._steps.clear()


def duration(seconds: float) -> str:
    """Return *seconds* for reading: `4 s`, `3m 20s`, `1h 02m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}m {whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h {whole % 3600 // 60:02}m"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
