from __future__ import annotations

import msgspec
import pytest

from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.secret import handle_of, new_key


def test_the_public_id_is_how_the_digest_begins() -> None:
    key = new_key()
    entry = KeyEntry(name="ada", sha256=key.digest.hex())

    assert entry.digest == key.digest
    assert entry.id == handle_of(key.digest).hex() == entry.sha256[:12]


@pytest.mark.parametrize(("window", "seconds"), [("1m", 60), ("24h", 86_400), (90, 90), ("366d", 366 * 86_400)])
def test_a_budgets_window_is_from_a_minute_to_a_year(window: str | float, seconds: float) -> None:
    assert KeyEntry(name="ada", sha256="", budget_window=window).budget_window_seconds == seconds


@pytest.mark.parametrize("window", ["59s", 0, -1, "367d", "soon", ""])
def test_another_window_is_refused(window: str | float) -> None:
    with pytest.raises(ValueError, match="expected"):
        _ = KeyEntry(name="ada", sha256="", budget_window=window).budget_window_seconds


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", "a/b", "é", "a" * 64, "ctx_abc"])
def test_a_name_can_stand_in_logs_and_metrics_and_is_no_key(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name, "sha256": "0" * 64}, KeyEntry)
