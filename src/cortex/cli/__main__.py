"""`python -m cortex.cli cortex …` and `python -m cortex.cli neuron …`: the programs without their scripts."""

from __future__ import annotations

import click

from cortex.cli.main import cortex, neuron


@click.group()
def programs() -> None:
    """Run one of the two programs."""


programs.add_command(cortex, "cortex")
programs.add_command(neuron, "neuron")

if __name__ == "__main__":
    programs()
