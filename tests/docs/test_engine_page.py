"""The engine that `Adding an engine` shows is one: installed as the page says, it is loaded by a node and answers."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from docs.pages import Block, blocks
from harness import Daemon, Fleet

pytestmark = pytest.mark.e2e
PAGE = "adding-an-engine.md"


def shown(title: str) -> Block:
    return next(block for block in blocks() if block.page == PAGE and block.title == title)


def install(at: Path) -> None:
    """Put the engine and its entry point where Python finds both, as an installer would."""
    (at / "echo.py").write_text(shown("echo.py").text)
    about = at / "echo-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: echo\nVersion: 1\n")
    for group, names in tomllib.loads(shown("pyproject.toml").text)["project"]["entry-points"].items():
        lines = [f"{name} = {where}" for name, where in names.items()]
        (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    install(tmp_path)
    (tmp_path / "parrot").mkdir()
    (tmp_path / "parrot" / "parrot.gguf").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    fleet = Fleet(tmp_path)
    models = shown("models.toml").text.replace("./parrot", str(tmp_path / "parrot"))
    try:
        yield fleet.gateway(models, {"a": fleet.neuron("a", config='[[harnesses]]\nname = "echo"').port})
    finally:
        fleet.close()


def test_the_engine_of_the_page_answers(gateway: Daemon) -> None:
    chat = {"model": "parrot", "messages": [{"role": "user", "content": "so it says the same"}]}
    answer = httpx2.post(f"{gateway.url}/v1/chat/completions", json=chat, timeout=60, trust_env=False)

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "so it says the same"
    assert answer.json()["usage"]["completion_tokens"] == 5
