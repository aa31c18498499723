from __future__ import annotations

from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.core.secrets import read_secret


def test_a_secret_is_its_file_without_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" s3cret \n")

    assert read_secret(tmp_path / "token", "token_file") == "s3cret"


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_what_cannot_be_read_is_named_by_its_key(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)

    with pytest.raises(ConfigError, match=f"^token_file: {tmp_path}/token: no"):
        read_secret(tmp_path / "token", "token_file")


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^token_file: .*Is a directory"):
        read_secret(tmp_path, "token_file")
