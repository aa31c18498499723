"""`cortex doctor`: look at everything that has to be right, and say what to do where it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cortex.cli.daemon import find_config, places
from cortex.cli.failures import Misconfigured
from cortex.cli.options import key_option

if TYPE_CHECKING:
    from cortex.cli.doctor.findings import Finding

GATEWAY, NODE = "cortex.toml", "neuron.toml"


@click.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The gateway's file. Default: cortex.toml here, then in /etc/cortex.",
)
@click.option(
    "-n",
    "--node-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="This machine's file as a node. Default: neuron.toml here, then in /etc/cortex.",
)
@key_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(context: click.Context, config: Path | None, node_config: Path | None, as_json: bool) -> None:
    """Check this machine, and the fleet if it has the gateway's configuration.

    The gateway's files are read as its start reads them. Each node is asked for its version, clock, devices, engines,
    disk and failures, with the token that the gateway shows. A gateway that runs is asked which models nothing can
    serve. With a neuron.toml, this machine's devices, engines, disk, model files and port are looked at.

    The exit status is 0 if nothing is wrong, and 1 otherwise. Nothing is changed.

    \b
    Examples:
      cortex doctor
      cortex doctor -c /etc/cortex/cortex.toml
      cortex doctor --json | jq '.[] | select(.grade == "wrong")'
    """
    from cortex.cli.doctor.findings import Grade, report, summary
    from cortex.cli.doctor.machine import check_machine
    from cortex.cli.tables import show

    gateway, node = config or find_config(GATEWAY), node_config or find_config(NODE)
    if gateway is None and node is None:
        looked = ", ".join(str(place) for name in (GATEWAY, NODE) for place in places(name))
        raise Misconfigured(f"no configuration: looked for {looked}; name one with --config or --node-config")
    _quiet_log()
    findings: list[Finding] = []
    if gateway is not None:
        _check_fleet(gateway, findings)
    if node is not None:
        findings.extend(check_machine(node, os.environ))
    if as_json:
        click.echo(json.dumps([_as_json(finding) for finding in findings], indent=2))
    else:
        show(report(findings))
        click.echo(summary(findings), err=True)
    context.exit(1 if any(finding.grade is Grade.WRONG for finding in findings) else 0)


def _quiet_log() -> None:
    """Let the findings speak: what the same checks log as they are made would say it twice."""
    from cortex.core.logging import configure_log

    configure_log("critical", "text", {})


def _check_fleet(path: Path, findings: list[Finding]) -> None:
    """Add what the gateway's files say, its nodes, and the gateway itself or where it would listen."""
    from cortex.cli.doctor.gateway_files import check_files, check_ports
    from cortex.cli.doctor.nodes import check_nodes
    from cortex.cli.doctor.running import check_running, endpoint_of, health_of

    files = check_files(path, os.environ, findings)
    if files is None:
        return
    findings.extend(check_nodes(files.nodes, files.token))
    endpoint = endpoint_of(files.config.gateway.listen)
    health = health_of(endpoint)
    findings.extend(check_ports(files.config) if health is None else check_running(endpoint, health))


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "grade": finding.grade.name.lower(),
        "subject": finding.subject,
        "said": finding.said,
        "remedy": finding.remedy,
    }
