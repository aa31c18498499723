"""What the pages show is as the code has it: each file is read by its loader, each command and option exists."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from generate.command_line import commands as all_commands

from cortex.cli.main import cortex, neuron
from cortex.gateway.catalogue import load_catalogue
from cortex.gateway.config import load_config as load_gateway
from cortex.gateway.keys.file import load_keys
from cortex.neuron.config import load_config as load_neuron
from cortex.sim.description import load_fleet
from docs.commands import check, check_span, commands
from docs.pages import ROOT, Block, blocks, spans

LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
LANGUAGES = {"sh", "console", "text", "toml", "json", "yaml", "python", "javascript"}
LOADERS: dict[str, Callable[[Path], Any]] = {
    "cortex.toml": lambda path: load_gateway(path, {}),
    "fleet.toml": load_fleet,
    "keys.toml": load_keys,
    "models.toml": load_catalogue,
    "neuron.toml": lambda path: load_neuron(path, {}),
}
# Files of other programs: they must be well-formed, what they mean is not ours to say.
OTHERS = {"~/.codex/config.toml", "pyproject.toml"}
PARSERS: dict[str, Callable[[str], Any]] = {"toml": tomllib.loads, "json": json.loads, "yaml": yaml.safe_load}


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in blocks() if block.language in languages]


def test_every_block_says_what_it_is_in() -> None:
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", of(*PARSERS))
def test_a_file_is_read_by_what_reads_it(block: Block, tmp_path: Path) -> None:
    PARSERS[block.language](block.text)
    if block.title in OTHERS or block.language != "toml":
        return
    assert block.title in LOADERS, f"{block}: a title says which file it is: {', '.join(sorted(LOADERS))}"
    path = tmp_path / block.title
    path.touch(mode=0o600)
    path.write_text(block.text)

    LOADERS[block.title](path)


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", of("sh", "console"))
def test_the_commands_of_a_block_exist(block: Block) -> None:
    found = list(commands(block.commands))

    assert found, str(block)
    assert [wrong for words in found if (wrong := check(words))] == []


def test_links_of_the_pages_outside_the_site_lead_somewhere() -> None:
    """Those inside are checked as it is built."""
    links = [(page.name, link) for page in ROOT.glob("*.md") for link in LINK.findall(page.read_text())]
    assert len(links) > 10

    assert [(page, link) for page, link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_the_commands_that_are_named_in_text_exist() -> None:
    assert len(spans()) > 20

    assert [f"{page}: `{text}`: {wrong}" for text, page in spans() if (wrong := check_span(text))] == []


def test_the_examples_of_every_help_are_commands() -> None:
    contexts = [*all_commands(cortex, "cortex"), *all_commands(neuron, "neuron")]
    shown = [line for context in contexts for line in _examples(context.command.help or "")]
    assert len(shown) > 20

    wrong = {line: found for line in shown for words in commands(line) if (found := check(words))}
    assert wrong == {}


def _examples(text: str) -> list[str]:
    """Return the commands below `Examples:`, without what stands behind them, two spaces away."""
    lines = [line.strip() for line in text.partition("Examples:")[2].split("\n")]
    return [line.split("  ")[0] for line in lines if line.startswith(("cortex ", "neuron "))]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("cortex expalin coder", "no command"),
        ("cortex explain coder --lsat", "No such option"),
        ("cortex chat", "Missing argument"),
        ("make dogs", "no target"),
        ("pip install 'cortex-fleet[cuda]'", "no extra"),
        ("CORTEX_LOG=debug cortex status && neuron srve", "no command"),
        (f"python3 bench{os.sep}none.py", "no file"),
    ],
)
def test_what_does_not_exist_is_found(command: str, wrong: str) -> None:
    assert any(wrong in (check(words) or "") for words in commands(command))
