"""The pages that readers copy from, as blocks: what each is in, its title, and why it is not run if it is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PROGRAMS = ("cortex ", "neuron ")
TITLE = "cortex engine "  # what `ps` shows of an engine process
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(?P<reason>.*?)\s*-->", re.DOTALL)
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; *line* is that of its fence, *not_run* the reason that the comment before it gives."""

    page: str
    line: int
    language: str
    text: str
    title: str | None = None
    not_run: str | None = None

    @property
    def commands(self) -> str:
        """What is typed: of a console, the lines behind a prompt."""
        if self.language != "console":
            return self.text
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}" + (f" (not run: {self.not_run})" if self.not_run else "")


@cache
def blocks() -> tuple[Block, ...]:
    """Return the blocks of all pages, in their order."""
    return tuple(block for page in PAGES for block in _of(page))


@cache
def spans() -> tuple[tuple[str, str], ...]:
    """Return each piece of code within a line that is a command of ours, and the page that it is on."""
    found = []
    for page in PAGES:
        for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
            codes = [child.content for child in token.children or () if child.type == "code_inline"]
            found += [(code, page.name) for code in codes if code.startswith(PROGRAMS) and not code.startswith(TITLE)]
    return tuple(found)


def _of(page: Path) -> list[Block]:
    found, reason = [], None
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "html_block":
            said = _NOT_RUN.search(token.content)
            reason = said["reason"] if said else None
        elif token.type in ("fence", "code_block"):
            language, _, rest = token.info.partition(" ")
            title = _TITLE.search(rest)
            line = token.map[0] + 1 if token.map else 0
            found.append(Block(page.name, line, language, token.content, title and title["title"], reason))
            reason = None
        elif token.type in ("paragraph_open", "heading_open", "table_open"):
            reason = None
    return found
