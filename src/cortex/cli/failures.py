"""How a command ends when something is wrong: one clear line on stderr, the remedy in it, and an exit status."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import click

from cortex.core.errors import ConfigError


class Failure(click.ClickException):
    """What was asked for could not be done."""

    exit_code = 1


class Misconfigured(click.ClickException):
    """A file, a variable or an option is wrong."""

    exit_code = 2


@contextmanager
def configuration() -> Generator[None, None, None]:
    """Turn a ConfigError inside the block into Misconfigured."""
    try:
        yield
    except ConfigError as error:
        raise Misconfigured(str(error)) from None
