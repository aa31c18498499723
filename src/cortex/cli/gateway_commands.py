"""`cortex …`: the gateway, and what is asked of a running one."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import click

from cortex import __version__
from cortex.cli.daemon import find_config, places, stop_when_stdin_closes, until_stdin_closes_option
from cortex.cli.failures import Misconfigured, configuration
from cortex.cli.options import endpoint_option, json_option
from cortex.core.logging import configure_log

FILE = "cortex.toml"
# Where each command is that is not in this module; it is imported when it is asked for.
_ELSEWHERE = {
    "bench": "cortex.cli.bench_command",
    "doctor": "cortex.cli.doctor_command",
    "explain": "cortex.cli.fleet_commands",
    "init": "cortex.cli.init_command",
    "key": "cortex.cli.key_commands",
    "node": "cortex.cli.fleet_commands",
    "record": "cortex.cli.fleet_commands",
    "simulate": "cortex.cli.sim_commands",
    "top": "cortex.cli.top_command",
    "trace": "cortex.cli.trace_commands",
}


class _Commands(click.Group):
    """The commands of this module and, imported one by one, those of others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="cortex")
def cortex() -> None:
    """One OpenAI-compatible endpoint over every model on every GPU you own.

    \b
    Examples:
      cortex up                         a neuron, a gateway and a small model, here and now
      cortex init                       configuration for this machine, from what is found on it
      cortex chat smollm2-135m-instruct
      cortex status
      cortex explain qwen3              what would happen to a request for it, and why
      cortex top                        nodes, devices, replicas and queues, as they are
      cortex trace --slow               which requests waited longest, and what for
      cortex node drain gpu-box --wait  take a machine out of service
      cortex doctor                     what is wrong, and what to do about it
      cortex bench http://127.0.0.1:31313 qwen3
      cortex serve -c cortex.toml
    """


@cortex.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: cortex.toml here, then in /etc/cortex.",
)
@until_stdin_closes_option
def serve(config: Path | None, until_stdin_closes: bool) -> None:
    """Run the gateway.

    The catalogue, models.toml, is read from beside the configuration file. SIGTERM or Ctrl-C lets answers finish; a
    second one ends at once.

    \b
    Examples:
      cortex serve -c cortex.toml
      CORTEX_GATEWAY__LISTEN=0.0.0.0:31313 cortex serve
      CORTEX_LOG=info,cortex.gateway=debug cortex serve
    """
    from cortex.gateway import app
    from cortex.gateway.catalogue import load_catalogue
    from cortex.gateway.config import catalogue_path, load_config

    if until_stdin_closes:
        stop_when_stdin_closes()
    path = config or find_config(FILE)
    if path is None:
        looked = " or ".join(map(str, places(FILE)))
        raise Misconfigured(
            f"no configuration: looked for {looked}; name one with --config FILE (the examples directory has one to "
            "start from), or try `cortex up`, which needs none"
        )
    with configuration():
        loaded = load_config(path, os.environ)
        configure_log(loaded.gateway.log, loaded.gateway.log_format, os.environ)
        app.serve(loaded, load_catalogue(catalogue_path(path, loaded)), path)


@cortex.command()
@endpoint_option
@json_option
@click.pass_context
def status(context: click.Context, endpoint: str, as_json: bool) -> None:
    """Show the nodes: their state, free memory and models.

    The exit status is 0 while at least one node is healthy, and 1 otherwise.

    \b
    Examples:
      cortex status
      cortex status -e http://gpu-box:31313
      cortex status --json | jq .nodes
    """
    from cortex.cli.gateway_client import get_json
    from cortex.cli.tables import nodes_table, show

    health = get_json(endpoint, "/health")
    if as_json:
        click.echo(json.dumps(health, indent=2))
    else:
        show(nodes_table(health))
        for file, why in (health.get("refused_edits") or {}).items():
            click.echo(f"Warning: the last edit of {file} is not in effect: {why}", err=True)
    context.exit(0 if health.get("nodes", {}).get("healthy") else 1)


@cortex.command()
@endpoint_option
@json_option
def models(endpoint: str, as_json: bool) -> None:
    """List the models and where they are.

    A model that is not loaded says on which nodes it could be, or why on none.

    \b
    Examples:
      cortex models
      cortex models --json | jq -r '.data[].id'
    """
    from cortex.cli.gateway_client import get_json
    from cortex.cli.tables import models_table, show

    listing = get_json(endpoint, "/v1/models")
    if as_json:
        click.echo(json.dumps(listing, indent=2))
    elif listing.get("data"):
        show(models_table(listing))
    else:
        click.echo("no models: list some in the catalogue (models.toml)")


@cortex.command()
@click.argument("model")
@click.argument("prompt", nargs=-1)
@endpoint_option
@click.option("--system", metavar="TEXT", help="A system message to begin with.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token.")
def chat(
    model: str,
    prompt: tuple[str, ...],
    endpoint: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talk to MODEL, which is loaded if it is cold.

    With a PROMPT, or with stdin from a file or a pipe, there is one question and one answer, on stdout. Otherwise
    Ctrl-C breaks off an answer, and /exit, Ctrl-D or Ctrl-C at the prompt leave.

    \b
    Examples:
      cortex chat smollm2-135m-instruct
      cortex chat demo --system "Answer in one line." Why is the sky blue?
      git diff | cortex chat qwen3 --system "Review this." > review.txt
    """
    from cortex.cli.chat import Chat, converse, one_question

    settings = {"max_tokens": max_tokens, "temperature": temperature}
    talk = Chat(endpoint, model, system, {key: value for key, value in settings.items() if value is not None})
    if prompt:
        one_question(talk, " ".join(prompt))
    elif not sys.stdin.isatty():
        one_question(talk, sys.stdin.buffer.read().decode(errors="replace"))
    else:
        converse(talk)


@cortex.command()
@click.option(
    "--models",
    "catalogue",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Catalogue to serve. Default: a small demo model, and a simulated one.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where clients connect; metrics are one port above.  [default: 127.0.0.1:31313]",
)
@click.option(
    "--neuron-port", type=click.IntRange(1, 65535), help="Where the gateway reaches the neuron.  [default: 13131]"
)
@click.option("--no-ask", is_flag=True, help="Do not ask the model a question as proof.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Directory for logs and generated files.")
def up(catalogue: Path | None, listen: str | None, neuron_port: int | None, no_ask: bool, state: Path | None) -> None:
    """Run one neuron and one gateway on this machine, until Ctrl-C.

    Without a catalogue a small model is fetched, once, and asked a question through the gateway as proof. Generated
    configuration and logs are in ~/.local/state/cortex/up.

    \b
    Examples:
      cortex up
      cortex up --models models.toml --listen 0.0.0.0:31313
      cortex up --no-ask --state /tmp/other --listen 127.0.0.1:41313 --neuron-port 43131
    """
    from cortex.cli.up import Wanted, run_up

    run_up(Wanted(catalogue, listen, neuron_port, ask=not no_ask, state=state))
