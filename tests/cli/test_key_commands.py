from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cortex.cli import key_commands
from cortex.gateway.keys.file import load_keys
from cortex.gateway.keys.ledger import Use
from cortex.gateway.keys.secret import digest_of
from cortex.gateway.keys.sqlite_store import SqliteStore


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty directory of a machine without configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORTEX_KEY_FILE", raising=False)
    monkeypatch.setattr(key_commands, "find_config", lambda _name: None)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(key_commands.key, list(arguments))


def listed(*arguments: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run("list", "--json", *arguments).stdout)
    return rows


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_help_shows_examples(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout


def test_a_key_is_printed_once_alone_and_only_its_digest_is_kept(directory: Path) -> None:
    result = run("create", "ada")
    secret = result.stdout.strip()

    assert result.stdout == f"{secret}\n"
    assert result.exit_code == 0
    assert secret.startswith("ctx_")
    (entry,) = load_keys(directory / "keys.toml").by_id.values()
    assert (entry.name, entry.scope, entry.digest) == ("ada", "inference", digest_of(secret.encode()))
    assert secret not in (directory / "keys.toml").read_text() + result.stderr + run("list").output
    assert entry.id in result.stderr


def test_a_key_has_the_limits_it_was_made_with(directory: Path) -> None:
    limits = "--scope admin --model qwen* --model org/m --rpm 1 --tpm 2 --concurrency 3 --budget 4 --window 7d"
    assert run("create", "ada", *limits.split(), "--expires", "2131-01-31").exit_code == 0

    (entry,) = load_keys(directory / "keys.toml").by_id.values()

    assert (entry.scope, entry.models) == ("admin", ("qwen*", "org/m"))
    assert (entry.requests_per_minute, entry.tokens_per_minute, entry.concurrency) == (1, 2, 3)
    assert (entry.budget_tokens, entry.budget_window_seconds) == (4, 7 * 86_400)
    assert entry.expires == datetime(2131, 1, 31, tzinfo=UTC)


def test_a_key_may_end_after_some_time(directory: Path) -> None:
    run("create", "ada", "--expires", "30d")

    (entry,) = load_keys(directory / "keys.toml").by_id.values()

    assert entry.created is not None
    assert entry.expires is not None
    assert timedelta(0) <= entry.created + timedelta(days=30) - entry.expires <= timedelta(seconds=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "name"),
        (["ctx_something"], "name"),
        (["ada", "--rpm", "0"], "--rpm"),
        (["ada", "--window", "1h"], "--budget"),
        (["ada", "--budget", "5", "--window", "soon"], "budget_window = 'soon'"),
        (["ada", "--model", "a b"], "models"),
        (["ada", "--expires", "2020-01-01"], "is in the past"),
        (["ada", "--expires", "0d"], "is in the past"),
        (["ada", "--expires", "later"], "expected a duration such as 30d"),
        (["ada", "--expires", "9999999d"], "too far away"),
        (["ada", "--scope", "root"], "--scope"),
    ],
)
def test_what_makes_no_sense_makes_no_key(directory: Path, arguments: list[str], said: str) -> None:
    result = run("create", *arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert not (directory / "keys.toml").exists()


def test_a_name_that_is_taken_is_refused() -> None:
    run("create", "ada")
    result = run("create", "ada")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: keys.toml: there is a key named 'ada' already; revoke it first, or name this one\n"


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_key_is_revoked_by_name_or_id(by: str) -> None:
    run("create", "ada")
    run("create", "bob")
    result = run("revoke", str(listed()[0][by]))

    assert result.exit_code == 0
    assert result.stdout.startswith("Key ada (")
    assert [row["name"] for row in listed()] == ["bob"]


def test_a_key_that_is_not_there_cannot_be_revoked() -> None:
    run("create", "ada")
    result = run("revoke", "eve")

    assert (result.exit_code, result.stderr) == (2, "Error: keys.toml: 'eve': there is no such key\n")


def test_a_list_shows_limits_and_use(directory: Path) -> None:
    run("create", "ada", "--rpm", "60", "--budget", "1000", "--window", "1h", "--model", "qwen*")
    run("create", "bob")
    key = str(listed()[0]["id"])
    now = int(time.time()) // 60 * 60
    store = SqliteStore(directory / "ledger.db")
    store.add([Use(key, now, 2, 30, 12), Use(key, now - 7200, 1, 100, 0)])
    store.close()

    ada, bob = listed()

    last = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%MZ")
    assert (ada["requests"], ada["tokens"], ada["last_used"], ada["budget_used_tokens"]) == (3, 142, last, 42)
    assert (bob["requests"], bob["tokens"], bob["last_used"]) == (None, None, None)
    table = run("list").stdout
    for part in ("60 requests/min", "42 of 1000 tokens in 1 h", "142 tokens in 3 requests", "qwen*", last, "never"):
        assert part in table


def test_the_ledger_is_where_the_configuration_says(directory: Path) -> None:
    run("create", "ada")
    (directory / "cortex.toml").write_text('[gateway]\nstate = "state"\n')
    (directory / "state").mkdir()
    [key] = listed()
    store = SqliteStore(directory / "state" / "ledger.db")
    store.add([Use(str(key["id"]), 60, 2, 30, 3)])
    store.close()

    assert [row["tokens"] for row in listed()] == [33]


def test_a_list_without_a_ledger_shows_the_keys() -> None:
    run("create", "ada")

    assert listed()[0]["last_used"] is None


def test_a_ledger_that_is_named_must_be_there() -> None:
    run("create", "ada")
    result = run("list", "--ledger", "gone.db")

    assert result.exit_code == 2
    assert "gone.db: cannot be used as the ledger" in result.stderr


def test_a_file_that_anybody_may_read_is_listed_with_a_warning(directory: Path) -> None:
    run("create", "ada")
    (directory / "keys.toml").chmod(0o644)
    result = run("list")

    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: keys.toml: anybody on this machine may read it")


def test_the_file_is_beside_the_configuration(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "etc").mkdir()
    monkeypatch.setattr(key_commands, "find_config", lambda name: directory / "etc" / name)
    run("create", "ada")

    assert (directory / "etc" / "keys.toml").is_file()


@pytest.mark.parametrize("by", ["option", "variable"])
def test_the_file_can_be_named(directory: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "variable":
        monkeypatch.setenv("CORTEX_KEY_FILE", "mine.toml")
    run("create", "ada", *(["-f", "mine.toml"] if by == "option" else []))

    assert (directory / "mine.toml").is_file()


def test_a_list_of_nothing_says_how_to_make_a_key() -> None:
    result = run("list")

    assert result.exit_code == 2
    assert "cortex key create NAME" in result.stderr
