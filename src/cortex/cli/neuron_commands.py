"""`neuron …`: the daemon of a GPU host."""

from __future__ import annotations

from pathlib import Path

import click

from cortex import __version__
from cortex.cli.daemon import stop_when_stdin_closes, until_stdin_closes_option
from cortex.cli.failures import configuration
from cortex.cli.join_commands import join, leave
from cortex.cli.neuron_file import load_config_of_node
from cortex.cli.trial_commands import tp_smoke, validate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="neuron")
def neuron() -> None:
    """Run models on this host and serve them to a Cortex gateway.

    \b
    Examples:
      neuron serve                      every setting has a default
      neuron serve -c neuron.toml
      neuron join gpu-box:31313 --token 1f0c…
      neuron validate ./qwen3-8b-Q4_K_M.gguf
      neuron tp-smoke --devices 0,1
      curl http://127.0.0.1:13131/discovery
    """


@neuron.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: neuron.toml here, then in /etc/cortex, then built-in defaults.",
)
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Port to listen on, whatever the file says.")
@until_stdin_closes_option
def serve(config: Path | None, port: int | None, until_stdin_closes: bool) -> None:
    """Run the daemon: find the devices, load models when asked, answer requests.

    SIGTERM or Ctrl-C lets answers finish, unloads every model and ends; a second one ends at once.

    \b
    Examples:
      neuron serve -c neuron.toml
      neuron serve --port 13132
      NEURON_MODELS__OFFLINE=true CORTEX_LOG=info,cortex.neuron=debug neuron serve
    """
    from cortex.neuron import app

    if until_stdin_closes:
        stop_when_stdin_closes()
    with configuration():
        app.serve(load_config_of_node(config, port))


neuron.add_command(join)
neuron.add_command(leave)
neuron.add_command(validate)
neuron.add_command(tp_smoke)
