"""The options that commands about a running gateway share."""

from __future__ import annotations

import click

DEFAULT_ENDPOINT = "http://127.0.0.1:31313"


def base_url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return *value* as a base URL, forgiving a missing scheme and the `/v1` that SDKs want."""
    url = value.strip().rstrip("/").removesuffix("/v1")
    return url if "://" in url else f"http://{url}"


endpoint_option = click.option(
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
json_option = click.option("--json", "as_json", is_flag=True, help="Print the gateway's own answer instead of a table.")
