"""Find and read a node's file for a command line, and set up its log as it says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cortex.cli.daemon import find_config, places
from cortex.core.logging import configure_log

if TYPE_CHECKING:
    from cortex.neuron.config import NeuronConfig

FILE = "neuron.toml"


def load_config_of_node(given: Path | None, port: int | None = None) -> NeuronConfig:
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
