"""`cortex trace`: where the time of one request went, and which requests there were."""

from __future__ import annotations

import json
from urllib.parse import quote, urlencode

import click

from cortex.cli.options import endpoint_option, json_option


@click.command()
@click.argument("request_id", required=False)
@click.option("--slow", is_flag=True, help="List those that waited longest for their first token.")
@click.option("--failed", is_flag=True, help="List only requests that failed.")
@click.option("--model", metavar="MODEL", help="List only requests for the model with this id.")
@click.option("--key-name", metavar="NAME", help="List only requests of the key with this name.")
@click.option("--since", metavar="WHEN", help="List only requests since then: how long ago, such as 15m or 2h.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="List so many.")
@json_option
@endpoint_option
def trace(
    request_id: str | None,
    slow: bool,
    failed: bool,
    model: str | None,
    key_name: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
    endpoint: str,
) -> None:
    """Tell the story of REQUEST_ID, the `x-request-id` of its answer; without one, list the last requests.

    The story is a waterfall: waiting, eviction, each stage of a load, prefill, decode, with the seconds of each; and
    why the request went where it went. What was asked and answered is not in it, and is kept nowhere.

    \b
    Examples:
      cortex trace
      cortex trace --slow --since 1h
      cortex trace --failed --model qwen3
      cortex trace req-5f3a9c21d04b7e8800000017
      cortex trace req-5f3a9c21d04b7e8800000017 --json | jq .spans
    """
    from cortex.cli.fleet_client import ask
    from cortex.cli.tables import show
    from cortex.cli.trace_tables import requests_table, story

    if request_id is not None:
        answer = ask(endpoint, f"/traces/{quote(request_id, safe='')}")
    else:
        flags = {name: "true" for name, given in (("slow", slow), ("failed", failed)) if given}
        wanted = {"model": model, "key": key_name, "since": since, "limit": str(limit)}
        query = urlencode({**flags, **{name: value for name, value in wanted.items() if value}})
        answer = ask(endpoint, f"/traces?{query}")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif request_id is not None:
        show(story(answer))
    elif answer.get("data"):
        show(requests_table(answer["data"]))
    else:
        click.echo("no such requests are kept; every request that ends is, and `cortex trace --help` says more")
