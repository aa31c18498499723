"""Write the man pages and shell completions of both programs, from what their commands say of themselves.

    python packaging/manpages.py DIRECTORY YYYY-MM-DD

DIRECTORY becomes the root of what is installed, in a directory for each program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from cortex import __version__
from cortex.cli.main import cortex, neuron

COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{program}",
    "zsh": "usr/share/zsh/vendor-completions/_{program}",
    "fish": "usr/share/fish/vendor_completions.d/{program}.fish",
}


def contexts(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context for *command* and for each command below it that is not hidden."""
    context = click.Context(command, info_name=name, parent=parent)
    yield context
    for child_name, child in children(context):
        yield from contexts(child, child_name, context)


def children(context: click.Context) -> list[tuple[str, click.Command]]:
    """Return the commands below that of *context*, but for hidden ones."""
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [(name, command) for name, command in found if command is not None and not command.hidden]


def page(context: click.Context, version: str, date: str) -> str:
    """Return the man page of the command of *context*, as man(7) wants it."""
    title = context.command_path.replace(" ", "-")
    usage = " ".join(context.command.collect_usage_pieces(context))
    description, examples = told(context.command.help or "")
    parts = [
        f'.TH {escaped(title.upper())} 1 "{date}" "Cortex {version}" "Cortex"',
        f".SH NAME\n{escaped(title)} \\- {escaped(summary(context.command))}",
        f".SH SYNOPSIS\n.B {escaped(context.command_path)}\n{escaped(usage)}",
        f".SH DESCRIPTION\n{description}" if description else "",
        *_listed("OPTIONS", options(context)),
        *_listed("COMMANDS", [(name, summary(command)) for name, command in children(context)]),
        f".SH EXAMPLES\n{examples}" if examples else "",
        *_see_also(context),
    ]
    return "\n".join(filter(None, parts)) + "\n"


def summary(command: click.Command) -> str:
    """Return what the command does, in a line without the full stop."""
    return command.get_short_help_str(limit=100).rstrip(".")


def options(context: click.Context) -> list[tuple[str, str]]:
    """Return the options of the command, and arguments that have a help text, with what each does."""
    records = (parameter.get_help_record(context) for parameter in context.command.get_params(context))
    return [record for record in records if record is not None and record[1]]


def told(text: str) -> tuple[str, str]:
    """Return the description and the examples in a command's help *text*, both as roff.

    A paragraph after a line of `\\b` keeps its lines; one that begins with `Examples:` is the examples.
    """
    description, examples = [], []
    for paragraph in text.split("\f")[0].strip().split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        as_written = bool(lines) and lines[0].strip() == "\b"
        body = lines[1:] if as_written else lines
        if not body:
            continue
        if body[0].strip() == "Examples:":
            examples.append(_as_written(body[1:]))
        else:
            description.append(_as_written(body) if as_written else escaped(" ".join(map(str.strip, body))))
    return "\n.PP\n".join(description), "\n.PP\n".join(examples)


def escaped(text: str) -> str:
    """Return *text* so that roff shows it as it is, hyphens as what can be typed."""
    shown = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in shown.split("\n"))


def _as_written(lines: list[str]) -> str:
    return "\n".join([".nf", *(escaped(line.strip()) for line in lines), ".fi"])


def _listed(heading: str, entries: list[tuple[str, str]]) -> list[str]:
    if not entries:
        return []
    return [f".SH {heading}", *(f".TP\n.B {escaped(name)}\n{escaped(text)}" for name, text in entries)]


def _see_also(context: click.Context) -> list[str]:
    pages = [f"{context.command_path} {name}" for name, _ in children(context)]
    if context.parent is not None:
        pages.insert(0, context.parent.command_path)
    if not pages:
        return []
    return [".SH SEE ALSO", ",\n".join(f".BR {escaped(name.replace(' ', '-'))} (1)" for name in pages)]


def completion(program: click.Command, name: str, shell: str) -> str:
    """Return click's own completion script for *shell*."""
    kind = get_completion_class(shell)
    if kind is None:
        raise SystemExit(f"click knows no completion for {shell}")
    return kind(program, {}, name, f"_{name.upper()}_COMPLETE").source()


def write(root: Path, date: str) -> None:
    """Write the pages and completions of both programs, each below a directory of its name in *root*."""
    for name, program in (("cortex", cortex), ("neuron", neuron)):
        for context in contexts(program, name):
            file = context.command_path.replace(" ", "-") + ".1"
            _put(root / name / "usr/share/man/man1" / file, page(context, __version__, date))
        for shell, path in COMPLETIONS.items():
            _put(root / name / path.format(program=name), completion(program, name, shell))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
