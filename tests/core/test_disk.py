from __future__ import annotations

import shutil
from pathlib import Path

from cortex.core.disk import existing, free_bytes


def test_what_is_not_there_yet_is_asked_for_where_it_would_be_made(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path


def test_free_bytes_are_those_of_the_disk_it_would_be_on(tmp_path: Path) -> None:
    found = free_bytes(tmp_path / "not" / "yet")

    assert found is not None
    assert 0 < found <= shutil.disk_usage(tmp_path).total
