"""What readers copy from the pages is run: against a real gateway and real nodes, whose engine is simulated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docs.pages import Block, blocks
from docs.stack import Stack
from js_packages import needs_node, node_modules

pytestmark = pytest.mark.e2e
BASH = ["bash", "-euo", "pipefail", "-c"]
RUN = {
    "sh": BASH,
    "console": BASH,
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "--eval"],
}
NOT_PUT = {None, "cortex.toml", "models.toml", "~/.codex/config.toml"}
SECONDS = 60.0


def marks(block: Block) -> list[pytest.MarkDecorator]:
    if block.not_run:
        return [pytest.mark.skip(reason=block.not_run)]
    return [needs_node] if block.language == "javascript" else []


def shown() -> list[Any]:
    """Return what can be run; what cannot is passed over with the reason that the page gives."""
    return [
        pytest.param(
            block,
            id=f"{block.page}:{block.line}",
            marks=marks(block),
        )
        for block in blocks()
        if block.language in RUN and block.title is None
    ]


@pytest.fixture(scope="module")
def directory(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One directory a page, in which its commands are run one after the other, beside the gateway's files."""
    root, made = tmp_path_factory.mktemp("pages"), dict[str, Path]()

    def of(page: str) -> Path:
        return made.setdefault(page, made.get(page) or stack.beside(root / page))

    return of


def put(block: Block, at: Path, stack: Stack) -> None:
    """Write the files that the page shows before *block*, but for those that the gateway itself has."""
    for each in blocks():
        if each.page == block.page and each.line < block.line and each.title not in NOT_PUT:
            (at / each.title).write_text(stack.told(each.text))


@pytest.mark.parametrize("block", shown())
def test_a_block_runs(block: Block, stack: Stack, directory: Callable[[str], Path]) -> None:
    at = directory(block.page)
    put(block, at, stack)
    if block.language == "javascript" and not (at / "node_modules").exists():
        (at / "node_modules").symlink_to(node_modules())
    done = subprocess.run(
        [*RUN[block.language], stack.told(block.commands)],
        cwd=at,
        env=stack.environment(at),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 0, f"{block}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert "Traceback" not in done.stderr
