"""What a block of commands asks for, read without running it: every program, command and option must exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from cortex.cli.main import cortex, neuron

ROOT = Path(__file__).parents[2]
PROGRAMS: dict[str, click.Command] = {"cortex": cortex, "neuron": neuron}
_ENDS = {";", "&&", "||", "|", "&", "\n", ">", ">>"}
_EXTRAS = re.compile(r"^cortex-fleet(?:\[(?P<extras>[\w,]+)\])?$")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block as words, without settings of variables before them."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(re.sub(r"(^|\s)#.*$", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # the line is a part of a string over several
            continue
        yield from _split(words)


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in _ENDS:
            if command:
                yield command
            command = []
        elif command or not re.match(r"^\w+=", word):
            command.append(word)


def check(words: Sequence[str]) -> str | None:
    """Return what is wrong with a command, if anything is; programs of others are not judged."""
    words = list(words[1:]) if words[0] == "sudo" else list(words)
    program, rest = Path(words[0]).name, words[1:]
    if program in PROGRAMS:
        return _check_ours(PROGRAMS[program], program, rest)
    if program == "make":
        return _check_targets([word for word in rest if "=" not in word and not word.startswith("-")])
    if program == "pip" and rest[:1] == ["install"]:
        return _check_extras(rest[1:])
    if program.startswith("python") and rest and rest[0].endswith(".py") and not (ROOT / rest[0]).exists():
        return f"no file {rest[0]}"
    return None


def check_span(text: str) -> str | None:
    """Return what is wrong with a command within a line: arguments may be missing, or be placeholders."""
    words = text.split()
    leaf, path, rest = _leaf(PROGRAMS[words[0]], words[0], words[1:])
    if leaf is None:
        return f"no command {path!r}"
    known = _options(leaf)
    return next((f"{path} has no {w}" for w in rest if re.match(r"--?[a-z]", w) and w.split("=")[0] not in known), None)


def _options(command: click.Command) -> set[str]:
    return {"-h", "--help", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}


def _leaf(command: click.Command, path: str, words: list[str]) -> tuple[click.Command | None, str, list[str]]:
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        path = f"{path} {words[0]}"
        if found is None:
            return None, path, []
        command, words = found, words[1:]
    return command, path, words


def _check_ours(command: click.Command, name: str, words: list[str]) -> str | None:
    leaf, path, rest = _leaf(command, name, words)
    if leaf is None:
        return f"no command {path!r}"
    try:
        leaf.make_context(path, list(rest))
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        return None if "does not exist" in error.format_message() else f"{path}: {error.format_message()}"
    return None


def _check_targets(targets: Sequence[str]) -> str | None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    return next((f"no target {target}" for target in targets if target not in known), None)


def _check_extras(words: Sequence[str]) -> str | None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        asked = _EXTRAS.match(word)
        if asked and asked["extras"]:
            for extra in asked["extras"].split(","):
                if extra not in known:
                    return f"no extra {extra}"
    return None
