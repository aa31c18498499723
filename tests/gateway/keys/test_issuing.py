"""Making keys: what a time means, and that what is wrong is named before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.gateway.keys.file import load_keys
from cortex.gateway.keys.issuing import described, issue, moment

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("30d", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2031-01-31", datetime(2031, 1, 31, tzinfo=UTC)),
        ("2030-01-01T05:00:00+02:00", datetime(2030, 1, 1, 3, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_duration_from_now_or_a_date(text: str, found: datetime) -> None:
    assert moment(text, NOW) == found


@pytest.mark.parametrize(
    ("text", "why"), [("2029-01-01", "in the past"), ("soon", "expected a duration"), ("9999999d", "too far away")]
)
def test_a_moment_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        moment(text, NOW)


def test_a_key_that_is_made_is_in_the_file_and_described_without_what_lets_one_in(tmp_path: Path) -> None:
    entry, secret = issue(tmp_path / "keys.toml", {"name": "ada", "concurrency": 2})
    told = described(entry, None, None)

    assert load_keys(tmp_path / "keys.toml").by_id == {entry.id: entry}
    assert (told["name"], told["concurrency"], told["tokens"]) == ("ada", 2, None)
    assert secret.reveal() not in str(told)
    assert entry.sha256 not in str(told)


def test_a_key_with_a_wrong_field_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        issue(tmp_path / "keys.toml", {"name": "a b"})

    assert not (tmp_path / "keys.toml").exists()
