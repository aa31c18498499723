"""`neuron join` and `neuron leave`: become a node of a gateway's fleet, by an invitation, and be none any more."""

from __future__ import annotations

from pathlib import Path

import click

from cortex.cli.failures import Failure, Misconfigured, configuration
from cortex.cli.neuron_file import load_config_of_node
from cortex.cli.options import base_url

_config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: neuron.toml here, then in /etc/cortex, then built-in defaults.",
)


def _gateway(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else base_url(context, parameter, value)


@click.command()
@click.argument("gateway", required=False, callback=_gateway)
@click.option(
    "--token",
    required=True,
    envvar="CORTEX_JOIN_TOKEN",
    show_envvar=True,
    help="What `cortex node invite` printed; it is good for one node, for a while.",
)
@click.option("--name", help="What the node is to be called.  [default: `name` in the file, else the host's name]")
@click.option(
    "--address",
    metavar="HOST",
    help="Where the gateway is to reach this node.  [default: this machine's address on the way to the gateway]",
)
@click.option(
    "-p", "--port", type=click.IntRange(1, 65535), help="Port that the node serves on, whatever the file says."
)
@click.option("--interface", metavar="ADDRESS", help="Look for the gateway only where this machine has that address.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether the gateway that was found is the right one.")
@_config_option
def join(
    gateway: str | None,
    token: str,
    name: str | None,
    address: str | None,
    port: int | None,
    interface: str | None,
    yes: bool,
    config: Path | None,
) -> None:
    """Join the fleet of the GATEWAY, an address such as gpu-box:31313.

    The node makes a key, and the gateway signs a certificate for it. From then on `neuron serve` speaks with that
    gateway alone, by TLS, each side known by its certificate; the token is never sent, and the answer is believed only
    from the gateway that made it. Without GATEWAY it is looked for on this network by mDNS: it announces itself while
    a node is invited. What is found is shown with its fingerprint, which is in the token as well.

    Needs cortex-fleet[join] on both sides.

    \b
    Examples:
      neuron join gpu-box:31313 --token 1f0c…
      neuron join --token 1f0c…
      neuron join gpu-box:31313 --token 1f0c… --name attic --address attic.lan
    """
    from cortex.cli.joining import Asked, join_fleet

    with configuration():
        loaded = load_config_of_node(config, port)
        url = _found(token, interface, ask=not yes) if gateway is None else gateway
        joined = join_fleet(Asked(url, token, name, address), loaded)
    click.echo(f"This node is {joined.name!r} in the fleet of {url}, which reaches it at {joined.place}.")
    click.echo("Start it, or start it again, with `neuron serve`: it is in the fleet as soon as it serves.")


def _found(token: str, interface: str | None, *, ask: bool) -> str:
    """Return the URL of the gateway that made *token*, found on this network. Raises ConfigError, Failure, Abort."""
    from cortex.cli.finding import find_gateway, reachable
    from cortex.wire.joining import parse_token, shown

    found = find_gateway(parse_token(token).fingerprint, (interface,) if interface else ())
    url = reachable(found)
    click.echo(f"Found {found.name} at {url}. Its fingerprint, as in the token: {shown(found.fingerprint)}")
    if ask:
        click.confirm("Is that the gateway to join?", abort=True)
    return url


@click.command()
@_config_option
def leave(config: Path | None) -> None:
    """Forget the gateway that was joined, with the key and the certificate.

    The gateway is not told: `cortex node remove` there takes the node out of its fleet. `neuron serve`, once it is
    started again, serves as it did before it joined.

    \b
    Examples:
      neuron leave
    """
    from cortex.neuron.identity import forget_identity

    with configuration():
        loaded = load_config_of_node(config)
        try:
            former = forget_identity(loaded.state_directory)
        except OSError as error:
            raise Misconfigured(str(error)) from None
    if former is None:
        raise Failure(f"this node has not joined any gateway: nothing is in {loaded.state_directory}")
    click.echo(f"{former.gateway} is forgotten. There, run `cortex node remove {former.name}`.")
