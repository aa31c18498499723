"""Show how far a long step is: a spinner on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import re
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.text import Text

_PERCENT = re.compile(r"(\d+)\d(\.\d+)?%")
_SECONDS = re.compile(r", \d+s$")


class Steps:
    """The one step in progress, on stderr. As a context it ends with its block, whatever ends the block."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last = ""

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Say that *text* is what happens now; off a terminal only if it is news."""
        if not self._console.is_terminal:
            if gist(text) != self._last:
                self._last = gist(text)
                self._console.print(Text(text))
        elif self._status is None:
            self._status = self._console.status(Text(text))
            self._status.start()
        else:
            self._status.update(Text(text))

    def clear(self) -> None:
        """Erase what `show` showed on a terminal."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def done(self, text: str) -> None:
        """End the step and leave *text* behind."""
        self.clear()
        self._console.print(Text.assemble(("✓ ", "green"), text))


def gist(text: str) -> str:
    """Return *text* without what changes all the time: seconds passed, and the last digit of a percentage."""
    return _PERCENT.sub(r"\1x%", _SECONDS.sub("", text))
