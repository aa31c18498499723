"""Check this machine as a node: configuration, devices, engines, disk, model files, port."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cortex.cli.doctor.disk import check_directory
from cortex.cli.doctor.findings import Finding, warning, well, wrong
from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.core.sources import LocalSource, parse_source
from cortex.neuron.config import NeuronConfig, load_config, node_token
from cortex.neuron.devices import all_probes
from cortex.neuron.discovery import discover
from cortex.neuron.door import open_to_others
from cortex.neuron.identity import kept_identity, listen_host
from cortex.neuron.installed import installed_engines
from cortex.serving.run import bind

CACHE_BYTES = 10 << 30


def check_machine(path: Path, env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield how this machine stands as the node that the file at *path* describes."""
    try:
        config = load_config(path, env)
        token = node_token(config)
    except ConfigError as error:
        yield wrong("neuron", str(error), "the neuron does not start until this is mended")
        return
    yield well("neuron", str(path))
    try:
        identity = kept_identity(config.state_directory)
    except ConfigError as error:
        yield wrong("neuron", str(error), "the neuron does not start until this is mended")
        return
    host = listen_host(config.host, identity)
    if identity is None and open_to_others(host, token):
        remedy = "join a gateway, or set token_file here, node_token_file there"
        yield warning("neuron", f"anybody who reaches {host} may use it", remedy)
    yield from _engines_and_devices(config)
    yield check_directory("model files", config.cache, CACHE_BYTES, "models.cache")
    for spec in config.default_models:
        yield from _model(spec, path.parent)
    yield _port(host, config.port)


def _engines_and_devices(config: NeuronConfig) -> Iterator[Finding]:
    engines = installed_engines(config)
    if engines:
        yield well("engines", ", ".join(engines))
    else:
        yield wrong("engines", "none is installed", "pip install 'cortex-fleet[llamacpp]'")
    probes = all_probes(config.simulated_devices, config.cpu_devices)
    found = discover(config.simulated_devices, boot_id="", engines=engines, probes=lambda _: probes)
    for said in found.warnings:
        yield warning("devices", said, "without it the models go on what is left")
    for device in found.devices:
        yield well("devices", f"{device.name} ({device.kind}), {device.memory_total_bytes / 2**30:.1f} GiB")


def _model(spec: ModelSpec, beside: Path) -> Iterator[Finding]:
    """Yield whether a model's own files are there, where they are on this machine."""
    if spec.source is None:
        return
    try:
        source = parse_source(spec.source)
    except ConfigError as error:
        yield wrong("model files", f"{spec.id}: {error}", "correct default_models")
        return
    if isinstance(source, LocalSource):
        file = beside / Path(source.path).expanduser()
        if os.access(file, os.R_OK):
            yield well("model files", f"{spec.id}: {file}")
        else:
            yield wrong("model files", f"{spec.id}: {file} cannot be read", "correct its source, or put the file there")


def _port(host: str, port: int) -> Finding:
    try:
        bind(host, port, "port").close()
    except ConfigError as error:
        return warning("port", str(error), "that is as it should be if the neuron runs")
    return well("port", f"{host}:{port} is free, so no neuron runs there")
