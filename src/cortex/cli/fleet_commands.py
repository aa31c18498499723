"""`cortex explain`, `cortex node …` and `cortex record`: an operator's view of a running fleet, and hand on it."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import click

from cortex.cli.options import base_url, endpoint_option, json_option
from cortex.core.quantities import seconds_of

INTERRUPTED = 130


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Return a duration in seconds."""
    try:
        seconds = None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds is not None and seconds <= 0:
        raise click.BadParameter(f"{value!r}: expected more than 0")
    return seconds


@click.command()
@click.argument("model")
@click.option("--last", is_flag=True, help="Show what was last decided for it, and what came of it.")
@json_option
@endpoint_option
@click.pass_context
def explain(context: click.Context, model: str, last: bool, as_json: bool, endpoint: str) -> None:
    """Say what would happen to a request for MODEL now, and why.

    Its replicas come as a request would be routed, and the nodes as one more replica would be placed: what is free and
    needed on each device, who would be unloaded, and what stands in the way. Nothing is changed by asking.

    The exit status is 0 if a request would be served, now or after a load, and 1 if not.

    \b
    Examples:
      cortex explain qwen3
      cortex explain qwen3 --last
      cortex explain qwen3 --json | jq '.candidates[0]'
    """
    from cortex.cli.fleet_client import explain as explained_by
    from cortex.cli.fleet_tables import explanation, timeline
    from cortex.cli.tables import show

    explained = explained_by(endpoint, model)
    if as_json:
        click.echo(json.dumps(explained, indent=2))
    else:
        show(timeline(explained) if last else explanation(explained))
    context.exit(1 if explained.get("decision") == "refuse" else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def node() -> None:
    """Invite, add, remove, drain and list the nodes of a running gateway.

    \b
    Examples:
      cortex node list
      cortex node invite
      cortex node add attic http://10.0.0.2:13131
      cortex node drain attic --wait
    """


@node.command("list")
@json_option
@endpoint_option
def list_nodes(as_json: bool, endpoint: str) -> None:
    """Show the nodes: health, devices, replicas, version, and when each last answered.

    \b
    Examples:
      cortex node list
      cortex node list --json | jq -r '.nodes[] | select(.drained) | .name'
    """
    from cortex.cli.fleet_client import ask
    from cortex.cli.fleet_tables import fleet_table
    from cortex.cli.tables import NO_NODE, show

    fleet = ask(endpoint, "/fleet")
    if as_json:
        click.echo(json.dumps(fleet, indent=2))
    elif fleet.get("nodes"):
        show(fleet_table(fleet))
    else:
        click.echo(NO_NODE)


@node.command()
@click.argument("name")
@click.argument("url", callback=base_url)
@endpoint_option
def add(name: str, url: str, endpoint: str) -> None:
    """Have the gateway use the neuron at URL, under NAME, also after a restart.

    \b
    Examples:
      cortex node add attic http://10.0.0.2:13131
      cortex node add attic 10.0.0.2:13131 -e http://gpu-box:31313
    """
    from cortex.cli.fleet_client import ask

    added = ask(endpoint, "/fleet/nodes", "POST", {"name": name, "endpoint": url})
    click.echo(f"{added.get('name')} at {added.get('endpoint')} is added; `cortex node list` says how it is.")


@node.command()
@click.argument("name", required=False)
@click.option(
    "--for",
    "seconds",
    callback=_duration,
    default="15m",
    show_default=True,
    metavar="DURATION",
    help="How long the token holds, up to 7d.",
)
@json_option
@endpoint_option
def invite(name: str | None, seconds: float, as_json: bool, endpoint: str) -> None:
    """Print a token with which one node may join the fleet: the one called NAME, if that is given.

    The node is then reached by TLS, each side known by its certificate. The token is shown this once: the gateway keeps
    nothing that could be used in its place. Needs cortex-fleet[join] on both sides.

    \b
    Examples:
      cortex node invite
      cortex node invite attic --for 1h
      cortex node invite --json | jq -r .token
    """
    from cortex.cli.fleet_client import ask
    from cortex.cli.options import DEFAULT_ENDPOINT

    body = {"seconds": seconds} if name is None else {"seconds": seconds, "name": name}
    invited = ask(endpoint, "/fleet/invites", "POST", body)
    if as_json:
        click.echo(json.dumps(invited, indent=2))
        return
    gateway = "GATEWAY:31313" if endpoint == DEFAULT_ENDPOINT else endpoint
    expires = datetime.fromtimestamp(invited.get("expires_at", 0.0))
    click.echo(f"On the machine that is to join, once, before {expires:%H:%M:%S on %Y-%m-%d}:\n")
    click.echo(f"  neuron join {gateway} --token {invited.get('token')}\n")
    click.echo(f"The fingerprint of this gateway is {invited.get('fingerprint')}.")


@node.command()
@click.argument("name")
@endpoint_option
def remove(name: str, endpoint: str) -> None:
    """Have the gateway forget the node NAME, which was added or joined; those of cortex.toml are taken out there.

    The certificate of one that joined is revoked: to come back, it must be invited again. What is under way on it is
    cut off: drain it first.

    \b
    Examples:
      cortex node drain attic --wait && cortex node remove attic
    """
    from cortex.cli.fleet_client import ask

    ask(endpoint, _path(name), "DELETE")
    click.echo(f"{name} is removed. Its neuron runs on, with what it has loaded.")


@node.command()
@click.argument("name")
@click.option(
    "--wait", is_flag=True, help="Wait until all that can move has moved, and say whether NAME may be stopped."
)
@endpoint_option
@click.pass_context
def drain(context: click.Context, name: str, wait: bool, endpoint: str) -> None:
    """Take the node NAME out of service: no new models go there, and those that it has move to other nodes.

    Each model serves on until it is ready elsewhere, and answers in progress finish. The mark outlives restarts.

    With --wait the exit status is 0 if nothing is left on the node, so that its neuron may be stopped, and 1 if
    something stays that no other node can take. Ctrl-C ends the waiting, and the node stays drained.

    \b
    Examples:
      cortex node drain attic
      cortex node drain attic --wait && ssh attic systemctl stop neuron
    """
    from cortex.cli.fleet_client import ask

    ask(endpoint, f"{_path(name)}/drain", "POST", {})
    if not wait:
        click.echo(f"{name} is drained; `cortex node drain {name} --wait` waits until it is empty. {_undo(name)}")
        return
    context.exit(_wait(name, endpoint))


@node.command()
@click.argument("name")
@endpoint_option
def undrain(name: str, endpoint: str) -> None:
    """Put the node NAME back into service.

    \b
    Examples:
      cortex node undrain attic
    """
    from cortex.cli.fleet_client import ask

    ask(endpoint, f"{_path(name)}/undrain", "POST", {})
    click.echo(f"{name} is back in service.")


@click.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.jsonl")
@click.option(
    "--for", "seconds", callback=_duration, metavar="DURATION", help="End by itself, as after 90s, 15m or 1h."
)
@endpoint_option
def record(out: Path, seconds: float | None, endpoint: str) -> None:
    """Record what is asked of the gateway, as a trace.

    A line is written when an answer ends: when its request came, its model, how many tokens it had and got, and a hash
    that tells which requests belong to one conversation. No text of anybody is in it. Over a restart of the gateway it
    waits, and says what is missing. Ctrl-C ends it. `cortex simulate` replays the file.

    \b
    Examples:
      cortex record monday.jsonl
      cortex record rush-hour.jsonl --for 1h -e http://gpu-box:31313
    """
    from cortex.cli.failures import Misconfigured
    from cortex.cli.recording import Recorder

    if out.is_file() and out.stat().st_size:
        raise Misconfigured(f"{out} has a recording already: name another file, or delete it")
    try:
        output = out.open("wb")
    except OSError as error:
        raise Misconfigured(f"{out}: {error.strerror or error}") from None
    with output:
        recorder = Recorder(endpoint, output)
        try:
            recorder.run(seconds)
        except KeyboardInterrupt:
            click.echo(err=True)
    click.echo(f"{out}: {recorder.summary()}", err=True)


def _path(name: str) -> str:
    from urllib.parse import quote

    return f"/fleet/nodes/{quote(name, safe='')}"


def _undo(name: str) -> str:
    return f"`cortex node undrain {name}` puts it back into service."


def _wait(name: str, endpoint: str) -> int:
    """Wait for the drained node *name* to be empty, say how that ended, and return the exit status."""
    from cortex.cli.draining import drain_and_wait
    from cortex.cli.steps import Steps

    try:
        left = drain_and_wait(endpoint, name, Steps())
    except KeyboardInterrupt:
        click.echo(f"\n{name} stays drained. {_undo(name)}", err=True)
        sys.exit(INTERRUPTED)
    if not left:
        click.echo(f"Nothing is left on {name}: it is safe to stop.")
        return 0
    click.echo(f"All that can move has left {name}. Stopping it ends what nobody else can serve:")
    for replica in left:
        click.echo(f"  {replica}")
    return 1
