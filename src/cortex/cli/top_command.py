"""`cortex top`: the fleet as it is now, in the terminal, second by second."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from select import select

import click

from cortex.cli.options import endpoint_option

DECISIONS = 8


@click.command()
@click.option("--once", is_flag=True, help="Print what is now, and end: for pipes and scripts.")
@click.option(
    "--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Look again after so many seconds."
)
@endpoint_option
def top(once: bool, every: float, endpoint: str) -> None:
    """Watch nodes, devices, replicas, queues, tokens a second and what is decided, until q or Ctrl-C.

    \b
    Examples:
      cortex top
      cortex top --once
      cortex top -e http://gpu-box:31313 --every 5
    """
    from rich.console import Console
    from rich.live import Live

    from cortex.cli.failures import Failure
    from cortex.cli.tables import show
    from cortex.cli.top_view import frame, lost

    if once or not sys.stdout.isatty():
        show(frame(*_seen(endpoint)))
        return
    console = Console()
    view = frame(*_seen(endpoint))
    with _keys(), Live(view, console=console, screen=True, auto_refresh=False) as live:
        while not _quits(every):
            try:
                view = frame(*_seen(endpoint))
                live.update(view, refresh=True)
            except Failure as failure:  # a gateway that is restarted comes back
                live.update(lost(view, str(failure)), refresh=True)


def _seen(endpoint: str) -> tuple[dict[str, object], list[dict[str, object]], list[dict[str, object]]]:
    """Return the fleet, its last minutes, and what was decided last. Raises Failure."""
    from cortex.cli.fleet_client import ask

    fleet = ask(endpoint, "/fleet")
    minutes = ask(endpoint, "/fleet/history?since=2m")["data"]
    return fleet, minutes, ask(endpoint, f"/fleet/decisions?limit={DECISIONS}")["data"]


@contextmanager
def _keys() -> Generator[None, None, None]:
    """Have keys come one by one, unseen, while the block lasts; without a keyboard there are none."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    """Wait for *seconds*; return whether q was pressed by then."""
    until = time.monotonic() + seconds
    while sys.stdin.isatty() and (left := until - time.monotonic()) > 0:
        if select([sys.stdin], [], [], left)[0] and sys.stdin.read(1) in ("q", "Q", "\x04"):
            return True
    time.sleep(max(0.0, until - time.monotonic()))
    return False
