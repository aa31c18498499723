from __future__ import annotations

from pathlib import Path

from cortex.cli.doctor.disk import check_directory
from cortex.cli.doctor.findings import Grade


def test_a_directory_with_room_is_well_also_before_it_is_made(tmp_path: Path) -> None:
    assert check_directory("state", tmp_path / "new", 1, "gateway.state").grade is Grade.WELL


def test_one_with_little_room_is_to_be_looked_at(tmp_path: Path) -> None:
    found = check_directory("model files", tmp_path, 1 << 62, "models.cache")

    assert found.grade is Grade.WARNING
    assert "models.cache" in found.remedy


def test_what_is_in_the_way_of_a_directory_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert check_directory("state", tmp_path / "file" / "state", 1, "gateway.state").grade is Grade.WRONG
