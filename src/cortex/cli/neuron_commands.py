"""`neuron …`: the daemon of a GPU host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cortex import __version__
from cortex.cli.daemon import find_config, places, stop_when_stdin_closes, until_stdin_closes_option
from cortex.cli.failures import configuration
from cortex.core.logging import configure_log

if TYPE_CHECKING:
    from cortex.neuron.config import NeuronConfig

FILE = "neuron.toml"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="neuron")
def neuron() -> None:
    """Run models on this host and serve them to a Cortex gateway.

    \b
    Examples:
      neuron serve                      every setting has a default
      neuron serve -c neuron.toml
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
        app.serve(_load(config, port))


def _load(given: Path | None, port: int | None) -> NeuronConfig:
    """Return the configuration, after logging was set up as it says. Raises ConfigError."""
    import msgspec

    from cortex.core.config import convert
    from cortex.core.logging import get_logger
    from cortex.neuron.config import NeuronConfig, load_config

    path = given or find_config(FILE)
    if path is not None:
        loaded = load_config(path, os.environ)
    else:
        loaded = convert({}, NeuronConfig, where="environment", env=os.environ, env_prefix="NEURON_")
    configure_log(loaded.log, loaded.log_format, os.environ)
    log = get_logger(__name__)
    if path is not None:
        log.info("config_read", path=str(path))
    else:
        log.info("config_defaults", reason="no file was given and none was found", looked=list(map(str, places(FILE))))
    return loaded if port is None else msgspec.structs.replace(loaded, port=port)
