"""Show one answer as it comes, and measure it: the text on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing

import click

from cortex.cli.gateway_client import Ended, Piece, Said, Waiting
from cortex.cli.steps import Steps


class Telling:
    """Owns what was said so far and when; it stays readable when the answer breaks off."""

    def __init__(self, model: str, steps: Steps, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = ""
        self._model, self._steps, self._clock = model, steps, clock
        self._began = clock()
        self._first_at: float | None = None
        self._last_at = self._began
        self._loaded = False
        self._reasoning = False
        self._ended: Ended | None = None
        self._terminal = sys.stdout.isatty()

    def tell(self, pieces: Generator[Piece, None, None]) -> None:
        """Show *pieces* to their end. Raises what they raise; an interrupt breaks the request off."""
        try:
            with closing(pieces), self._steps:
                self._steps.show(f"waiting for {self._model}")
                for piece in pieces:
                    self._show(piece)
        finally:
            if self._first_at is not None and not self.text.endswith("\n"):
                click.echo()

    def _show(self, piece: Piece) -> None:
        match piece:
            case Waiting(why):
                if self._first_at is None and why.startswith("loading "):
                    self._loaded = True
                    self._steps.show(why)
            case Said(text, reasoning):
                self._last_at = self._clock()
                if self._first_at is None:
                    self._first_at = self._last_at
                    self._steps.clear()
                self._say(text, reasoning)
            case Ended():
                self._ended = piece

    def _say(self, text: str, reasoning: bool) -> None:
        shown = printable(text) if self._terminal else text
        if reasoning:
            self._reasoning = True
            click.secho(shown, dim=True, nl=False, err=True)
            return
        if self._reasoning:
            self._reasoning = False
            click.echo("\n", err=True)
        self.text += text
        click.echo(shown, nl=False)

    def figures(self) -> str:
        """Return time to first token, tokens and speed, as far as they are known."""
        if self._first_at is None:
            return "no answer" if self._ended is None else "an empty answer"
        parts = [f"TTFT {self._first_at - self._began:.2f} s" + (" with loading" if self._loaded else "")]
        tokens = self._ended.completion_tokens if self._ended else None
        if tokens is not None:
            parts.append(f"{tokens} tokens")
            seconds = self._last_at - self._first_at
            if tokens > 1 and seconds > 0:
                parts.append(f"{(tokens - 1) / seconds:.1f} tok/s")
        if self._ended is None:
            parts.append("broken off")
        elif self._ended.finish_reason == "length":
            parts.append("cut at the token limit")
        return " · ".join(parts)


def printable(text: str) -> str:
    """Return *text* without control characters, with which an answer could take hold of a terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
