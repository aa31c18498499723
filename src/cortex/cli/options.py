"""The options that commands about a running gateway share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

DEFAULT_ENDPOINT = "http://127.0.0.1:31313"
_KEY = "cortex.key"

Command = TypeVar("Command", bound=Callable[..., Any])


def base_url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return *value* as a base URL, forgiving a missing scheme and the `/v1` that SDKs want."""
    url = value.strip().rstrip("/").removesuffix("/v1")
    return url if "://" in url else f"http://{url}"


def _keep_key(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    """Keep the key for `key_headers`: no command has a use for it but to show it."""
    key = (value or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise click.BadParameter("not a key: expected printable ASCII without spaces")
    context.meta[_KEY] = key


def key_headers() -> dict[str, str]:
    """Return the headers that show the key which the running command was given, if it was."""
    context = click.get_current_context(silent=True)
    key = context.meta.get(_KEY) if context is not None else None
    return {"authorization": f"Bearer {key}"} if key else {}


_endpoint_option = click.option(
    "-e",
    "--endpoint",
    metavar="URL",
    envvar="CORTEX_ENDPOINT",
    default=DEFAULT_ENDPOINT,
    show_default=True,
    show_envvar=True,
    callback=base_url,
    help="The gateway.",
)
key_option = click.option(
    "--key",
    metavar="KEY",
    envvar="CORTEX_API_KEY",
    show_envvar=True,
    expose_value=False,
    callback=_keep_key,
    help="What the gateway wants to be shown, if it has keys. Others on this machine can read a command line.",
)


def endpoint_option(command: Command) -> Command:
    """Have *command* take the gateway as `endpoint`, and a key that every request to it shows."""
    return _endpoint_option(key_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print the gateway's own answer instead of a table.")
