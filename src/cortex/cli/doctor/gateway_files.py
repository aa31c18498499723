"""Check a gateway's files as its start would read them: configuration, catalogue, keys, token, state, ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cortex.cli.doctor.disk import check_directory
from cortex.cli.doctor.findings import Finding, warning, well, wrong
from cortex.core.errors import ConfigError
from cortex.gateway.catalogue import Catalogue, load_catalogue, unknown_nodes
from cortex.gateway.config import (
    GatewayConfig,
    catalogue_path,
    key_file,
    load_config,
    node_token,
    state_directory,
)
from cortex.gateway.keys.file import load_keys
from cortex.gateway.keys.listening import listening_is_safe
from cortex.gateway.nodes import Nodes
from cortex.serving.run import bind, parse_address

STATE_BYTES = 1 << 30


@dataclass(slots=True)
class Files:
    """What could be read; `nodes` are those of the configuration and those that were added at run time."""

    config: GatewayConfig
    catalogue: Catalogue
    token: str | None
    nodes: Mapping[str, str]


def check_files(path: Path, env: Mapping[str, str], findings: list[Finding]) -> Files | None:
    """Add to *findings* how the files beside *path* stand; return what they say, None if *path* says nothing."""
    try:
        config = load_config(path, env)
    except ConfigError as error:
        findings.append(wrong("configuration", str(error), "the gateway does not start until this is mended"))
        return None
    findings.append(well("configuration", str(path)))
    catalogue = _catalogue(path, config, findings)
    findings.extend(_keys(path, config))
    token = _token(path, config, findings)
    state = state_directory(path, config, env)
    findings.append(check_directory("state", state, STATE_BYTES, "gateway.state"))
    nodes = _nodes(config, state, findings)
    if catalogue is not None:
        findings.extend(_placing(catalogue, nodes))
    return Files(config, catalogue or Catalogue(), token, nodes)


def check_ports(config: GatewayConfig) -> Iterator[Finding]:
    """Yield whether a gateway could listen where it is told to; only of use while none runs there."""
    for key in ("listen", "metrics_listen"):
        try:
            bind(*parse_address(getattr(config.gateway, key), f"gateway.{key}"), f"gateway.{key}").close()
        except ConfigError as error:
            yield wrong("port", str(error), "end the other program, or choose another port")
        else:
            yield well("port", f"{getattr(config.gateway, key)} is free")


def _nodes(config: GatewayConfig, state: Path, findings: list[Finding]) -> Mapping[str, str]:
    try:
        known = Nodes(config.neurons, state)
    except ConfigError as error:
        findings.append(wrong("nodes", str(error), "the gateway does not start until this is mended"))
        return {}
    return {node.name: node.endpoint for node in known.addresses}


def _catalogue(path: Path, config: GatewayConfig, findings: list[Finding]) -> Catalogue | None:
    where = catalogue_path(path, config)
    try:
        catalogue = load_catalogue(where)
    except ConfigError as error:
        findings.append(wrong("catalogue", str(error), "the gateway does not start until this is mended"))
        return None
    if catalogue.specs:
        findings.append(well("catalogue", f"{where}, {len(catalogue.specs)} models"))
    else:
        findings.append(warning("catalogue", f"{where} lists no model", "add [[models]], or load models on the nodes"))
    return catalogue


def _placing(catalogue: Catalogue, nodes: Mapping[str, str]) -> Iterator[Finding]:
    for model, unknown in unknown_nodes(catalogue, nodes).items():
        said = f"{model} may run on {', '.join(unknown)}, and there is no such node"
        yield warning("catalogue", said, f"correct nodes in the catalogue, or `cortex node add {unknown[0]} URL`")


def _keys(path: Path, config: GatewayConfig) -> Iterator[Finding]:
    file, settings = key_file(path, config), config.keys
    has_keys = settings.file is not None or file.exists()
    entries = 0
    if has_keys and settings.auth != "none":
        try:
            keys = load_keys(file)
        except ConfigError as error:
            yield wrong("keys", str(error), "the gateway does not start until this is mended")
            return
        entries = len(keys.by_id)
        for said in keys.warnings:
            yield warning("keys", said, "mend it before it matters")
    host, _ = parse_address(config.gateway.listen, "gateway.listen")
    verdict = listening_is_safe(host, has_keys, settings.auth)
    if isinstance(verdict, ConfigError):
        yield wrong("keys", str(verdict), "the gateway does not start like this")
    elif verdict is not None:
        yield warning("keys", verdict, "make a key with `cortex key create NAME` if that is not what you want")
    else:
        yield well("keys", f"{entries} in {file}" if has_keys else f"none, and only this machine reaches {host}")


def _token(path: Path, config: GatewayConfig, findings: list[Finding]) -> str | None:
    try:
        token = node_token(path, config)
    except ConfigError as error:
        findings.append(wrong("node token", str(error), "the gateway does not start until this is mended"))
        return None
    if token is not None:
        findings.append(well("node token", "is shown to the nodes"))
    return token
