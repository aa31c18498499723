"""The site is built strictly, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//[^"]*"'
    r'|<link(?=[^>]*rel="(?:stylesheet|preconnect|preload|icon)")[^>]*href="(?:https?:)?//[^"]*"'
    r"|@import[^;]*//|url\(\s*[\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` does."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("needs mkdocs: make site installs it")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(target)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "true"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    files = [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]
    assert len(files) > 20

    found = {str(file.relative_to(site)): ELSEWHERE.findall(file.read_text()) for file in files}
    assert {name: links for name, links in found.items() if links} == {}


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))

    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}
