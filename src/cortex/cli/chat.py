"""`cortex chat`: one question, or a conversation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from cortex.cli.failures import Failure, Misconfigured
from cortex.cli.gateway_client import stream_chat
from cortex.cli.steps import Steps
from cortex.cli.telling import Telling

INTERRUPTED = 130


@dataclass
class Chat:
    """A conversation with one model: what was said so far, and how to ask for more."""

    endpoint: str
    model: str
    system: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)

    def request(self, question: str) -> dict[str, Any]:
        """Return the body of a request for the answer to *question*."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.history, {"role": "user", "content": question}]
        return {"model": self.model, "messages": messages, **self.settings}

    def remember(self, question: str, answer: str) -> None:
        """Keep *question* and *answer*, unless nothing was answered: most templates want the turns to alternate."""
        if answer:
            self.history += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def one_question(talk: Chat, question: str) -> None:
    """Ask *question*, write the answer to stdout and return. Raises Failure."""
    if not question.strip():
        raise Misconfigured("the question is empty: give a PROMPT, or text on stdin")
    telling = Telling(talk.model, Steps())
    try:
        telling.tell(stream_chat(talk.endpoint, talk.request(question)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    _aside(telling.figures())


def converse(talk: Chat) -> None:
    """Ask what is typed, until there is no more."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    _aside(f"{talk.model} at {talk.endpoint} · Ctrl-C breaks off an answer · /exit or Ctrl-D leaves")
    while (question := _read()) is not None:
        if not question:
            continue
        telling = Telling(talk.model, Steps())
        try:
            telling.tell(stream_chat(talk.endpoint, talk.request(question)))
        except KeyboardInterrupt:
            click.echo(err=True)
        except Failure as failure:
            failure.show()
        talk.remember(question, telling.text)
        _aside(telling.figures())


def _read() -> str | None:
    """Return what was typed, or None for the end."""
    try:
        typed = input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None
    return None if typed == "/exit" else typed


def _aside(text: str) -> None:
    click.secho(text, dim=True, err=True)
