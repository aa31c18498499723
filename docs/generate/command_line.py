"""The page of commands: what each of them says when it is asked for `--help`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from cortex.cli.main import cortex, neuron

WIDTH = 100
HEAD = """# Commands

<!-- Written by docs/generate: `make docs`. -->

What `cortex`, the gateway and what is asked of it, and `neuron`, the daemon of a node, say with `--help`. Commands
about a running gateway take its address from `CORTEX_ENDPOINT`, and a key from `CORTEX_API_KEY`.

"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context for *command* and for each below it, by name."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                yield from commands(found, each, context)


def page() -> str:
    """Return the page as it is to be."""
    shown = [*commands(cortex, "cortex"), *commands(neuron, "neuron")]
    return HEAD + "\n".join(_section(context) for context in shown)


def _section(context: click.Context) -> str:
    return f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
