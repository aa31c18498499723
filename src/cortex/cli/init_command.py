"""`cortex init`: write the three configuration files for this machine, from what is found on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cortex.cli.failures import Misconfigured

if TYPE_CHECKING:
    from cortex.cli.init.caches import FoundModel
    from cortex.cli.init.files import Machine

NEURON_PORT = 13131


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option(
    "--models",
    "wanted",
    metavar="all|none|NAME,NAME",
    help="Which of the models found to serve. Default: ask on a terminal, else all that fit.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def init(directory: Path, wanted: str | None, force: bool) -> None:
    """Write cortex.toml, models.toml and neuron.toml for this machine into DIRECTORY, or here.

    Devices, free memory and installed engines are looked up, and so are models in the caches of Hugging Face, LM Studio
    and Ollama: they are offered by name and served from where they are. What is not served stays in models.toml as a
    comment that says why. Nothing is downloaded, and no file is overwritten unless told to.

    \b
    Examples:
      cortex init
      cortex init /etc/cortex --models all
      cortex init --models qwen3-8b,smollm2
    """
    from cortex.cli.init.caches import find_models
    from cortex.cli.init.files import cortex_toml, models_toml, names_of, neuron_toml
    from cortex.cli.init.machine import this_machine

    files = names_of(directory)
    _refuse_to_overwrite([file for file in files.values() if file.exists()], force)
    machine = this_machine()
    found = find_models(os.environ, Path.home())
    _show(machine, found)
    chosen = _choose(machine, found, wanted)
    texts = {
        "cortex.toml": cortex_toml(machine, NEURON_PORT),
        "models.toml": models_toml(machine, chosen, [model for model in found if model not in chosen]),
        "neuron.toml": neuron_toml(machine, NEURON_PORT),
    }
    _write({files[name]: text for name, text in texts.items()})
    where = "" if directory == Path() else f"cd {directory} && "
    click.echo(f"Next: {where}neuron serve & {where}cortex serve · `cortex doctor` checks it all")


def _refuse_to_overwrite(there: Sequence[Path], force: bool) -> None:
    if there and not force:
        raise Misconfigured(f"{', '.join(map(str, there))}: there already; name another DIRECTORY, or say --force")


def _show(machine: Machine, found: Sequence[FoundModel]) -> None:
    """Say what was found, models with their numbers."""
    from cortex.cli.init.files import gibibytes

    click.echo(f"{machine.name}: engines {', '.join(machine.engines) or 'none'}")
    for device, free in zip(machine.devices, machine.free_bytes, strict=True):
        click.echo(f"  {device.name}, {gibibytes(device.memory_total_bytes)}, {gibibytes(free)} free")
    for number, model in enumerate(found, 1):
        why = machine.why_not(model)
        click.echo(
            f"  {number:>2}  {model.id}  {gibibytes(model.size_bytes)}  {model.owner}" + (f"  ({why})" if why else "")
        )
    if not found:
        click.echo(
            "  no model in the caches of Hugging Face, LM Studio and Ollama: the catalogue gets a small demo model"
        )


def _choose(machine: Machine, found: Sequence[FoundModel], wanted: str | None) -> list[FoundModel]:
    """Return the models to serve. Raises Misconfigured for a name that is none of them."""
    fitting = [model for model in found if machine.why_not(model) is None]
    if wanted is None and found and sys.stdin.isatty():
        wanted = click.prompt("Serve which? Numbers or names with commas, all, or none", default="all")
    if wanted is None or wanted == "all":
        return fitting
    if wanted == "none":
        return []
    return [_named(name.strip(), found) for name in wanted.split(",")]


def _named(name: str, found: Sequence[FoundModel]) -> FoundModel:
    for number, model in enumerate(found, 1):
        if name in (model.id, str(number)):
            return model
    raise Misconfigured(f"{name!r}: found are {', '.join(model.id for model in found) or 'no models'}")


def _write(texts: dict[Path, str]) -> None:
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            click.echo(f"wrote {file}")
    except OSError as error:
        raise Misconfigured(f"{error.filename}: {error.strerror}") from None
