"""Pages that are written from the code are as the code is."""

from __future__ import annotations

import pytest
from generate import DOCS, PAGES
from generate.configuration import FILES, example, is_table, meanings, tables


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run `make docs`"


def test_every_key_of_every_file_says_what_it_means() -> None:
    """Above it in the example file, or in the words of its table."""
    silent = [
        f"{name}: {table}.{field.encode_name}"
        for name, struct, top in FILES
        for table, known, _ in tables(struct, top)
        for field in known.fields
        if not meanings(example(name)).get((table, field.encode_name))
        and f"`{field.encode_name}`" not in (known.cls.__doc__ or "")
        and not is_table(field)
    ]

    assert silent == [], "give each a comment in examples/"
