"""Write the generated pages."""

from __future__ import annotations

from generate import DOCS, PAGES

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
