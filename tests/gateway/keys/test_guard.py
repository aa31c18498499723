from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from cortex.core.errors import AuthenticationFailed, BudgetExceeded, RateLimited
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import Keys
from cortex.gateway.keys.guard import Guard
from cortex.gateway.keys.ledger import Ledger
from cortex.gateway.keys.secret import Key, new_key
from cortex.gateway.keys.sqlite_store import SqliteStore
from cortex.wire.engine_api import Usage

NOW = 1_800_000_000.0
QWEN = ("qwen",)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    store = SqliteStore(tmp_path / "ledger.db")
    yield Ledger(store)
    store.close()


def keys(*entries: KeyEntry) -> Keys:
    return Keys({entry.id: entry for entry in entries})


def entry(key: Key, name: str = "ada", **limits: object) -> KeyEntry:
    return KeyEntry(name=name, sha256=key.digest.hex(), **limits)  # type: ignore[arg-type]


def guard(ledger: Ledger, in_force: Keys | None) -> Guard:
    made = Guard(ledger)
    anyio.run(made.reload, in_force, NOW)
    return made


def shown(key: Key) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", b"Bearer " + key.reveal().encode())]


def test_without_a_key_file_everybody_is_the_anonymous_admin(ledger: Ledger) -> None:
    """Also those with a placeholder for a key, which many clients insist on."""
    door = guard(ledger, None)
    for headers in ([], shown(Key("sk-placeholder")), shown(new_key())):
        caller = door.enter(headers, NOW)
        caller.require("admin")
        caller.admit(QWEN, 1, 1, NOW).settle(Usage(1, 1), NOW)

        assert caller.name == "anonymous"
    assert anyio.run(ledger.history, 0) == []


def test_each_key_is_its_own_caller(ledger: Ledger) -> None:
    one, two = new_key(), new_key()
    door = guard(ledger, keys(entry(one, "ada"), entry(two, "bob", scope="admin")))

    assert [door.enter(shown(key), NOW).name for key in (one, two, one)] == ["ada", "bob", "ada"]
    assert door.enter(shown(one), NOW) is door.enter([(b"x-api-key", one.reveal().encode())], NOW)


@pytest.mark.parametrize("wrong", ["ctx_", "ctx_wrong", "nothing", None])
def test_a_wrong_key_is_a_401_that_does_not_repeat_it(ledger: Ledger, wrong: str | None) -> None:
    key = new_key()
    door = guard(ledger, keys(entry(key)))
    sent = Key(wrong) if wrong is not None else new_key()

    with pytest.raises(AuthenticationFailed) as caught:
        door.enter(shown(sent), NOW)

    assert caught.value.status == 401
    assert sent.reveal() not in caught.value.message.replace("ctx_…", "")


def test_a_key_whose_id_another_key_shares_is_still_another_key(ledger: Ledger) -> None:
    key = new_key()
    twin = KeyEntry(name="ada", sha256=key.digest.hex()[:12] + "0" * 52)
    door = guard(ledger, keys(twin))

    with pytest.raises(AuthenticationFailed):
        door.enter(shown(key), NOW)


def test_a_file_without_keys_lets_nobody_in(ledger: Ledger) -> None:
    with pytest.raises(AuthenticationFailed):
        guard(ledger, keys()).enter([], NOW)


def test_an_expired_key_is_told_so(ledger: Ledger) -> None:
    key = new_key()
    door = guard(ledger, keys(entry(key, expires=datetime.fromtimestamp(NOW + 10, UTC))))
    door.enter(shown(key), NOW + 9)

    with pytest.raises(AuthenticationFailed, match="'ada' has expired"):
        door.enter(shown(key), NOW + 10)


def test_a_revoked_key_is_refused_at_once_and_what_is_under_way_is_still_paid(ledger: Ledger) -> None:
    key = new_key()
    ada = entry(key)
    door = guard(ledger, keys(ada))
    admission = door.enter(shown(key), NOW).admit(QWEN, 1, 1, NOW)
    anyio.run(door.reload, keys(), NOW)

    with pytest.raises(AuthenticationFailed):
        door.enter(shown(key), NOW)

    admission.settle(Usage(3, 4), NOW)
    assert [(use.key, use.tokens) for use in anyio.run(ledger.history, 0)] == [(ada.id, 7)]


def test_an_edit_of_the_limits_holds_at_once_and_forgets_nothing(ledger: Ledger) -> None:
    key = new_key()
    door = guard(ledger, keys(entry(key, requests_per_minute=3)))
    for _ in range(2):
        door.enter(shown(key), NOW).admit(QWEN, 1, 1, NOW)

    anyio.run(door.reload, keys(entry(key, "ada2", requests_per_minute=2)), NOW)

    caller = door.enter(shown(key), NOW)
    assert (caller.name, caller.in_flight) == ("ada2", 2)
    with pytest.raises(RateLimited):
        caller.admit(QWEN, 1, 1, NOW)


def test_a_budget_survives_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    key = new_key()
    limited = keys(entry(key, budget_tokens=1000))
    guard(ledger, limited).enter(shown(key), NOW).admit(QWEN, 1, 1, NOW).settle(Usage(900, 50), NOW)
    anyio.run(ledger.flush)
    again = SqliteStore(tmp_path / "ledger.db")

    caller = guard(Ledger(again), limited).enter(shown(key), NOW)

    with pytest.raises(BudgetExceeded, match="50 of its 1000 tokens"):
        caller.admit(QWEN, 100, 100, NOW)
    again.close()


def test_a_budget_that_is_set_later_counts_what_was_used_before(ledger: Ledger) -> None:
    key = new_key()
    door = guard(ledger, keys(entry(key)))
    door.enter(shown(key), NOW).admit(QWEN, 1, 1, NOW).settle(Usage(900, 50), NOW)

    anyio.run(door.reload, keys(entry(key, budget_tokens=1000)), NOW)

    with pytest.raises(BudgetExceeded):
        door.enter(shown(key), NOW).admit(QWEN, 100, 100, NOW)


def test_nothing_of_a_key_is_in_what_stands_for_its_holder(ledger: Ledger) -> None:
    key = new_key()
    door = guard(ledger, keys(entry(key)))
    caller = door.enter(shown(key), NOW)

    assert key.reveal() not in repr([vars(door), caller, entry(key), key])
