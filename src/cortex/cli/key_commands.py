"""`cortex key …`: make, list and revoke the keys of the gateway. A running gateway takes edits up by itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cortex.cli.daemon import find_config
from cortex.cli.failures import Failure, configuration

if TYPE_CHECKING:
    from rich.table import Table

    from cortex.gateway.keys.entry import KeyEntry
    from cortex.gateway.keys.issuing import Uses

KEY_FILE, LEDGER = "keys.toml", "ledger.db"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def key() -> None:
    """Make, list and revoke the keys that clients call the gateway with.

    As soon as there is a key file, no request gets in without a key.

    \b
    Examples:
      cortex key create ada
      cortex key list
      cortex key revoke ada
    """


def _default_file(name: str) -> Path:
    """Return *name* beside cortex.toml where there is one, else here."""
    config = find_config("cortex.toml")
    return config.parent / name if config is not None else Path(name)


def _moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return a time from now, as `30d`, or a date or time of ISO 8601, which is in UTC unless it says otherwise."""
    if value is None:
        return None
    from cortex.gateway.keys.issuing import moment

    try:
        return moment(value, datetime.now(UTC).replace(microsecond=0))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


file_option = click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CORTEX_KEY_FILE",
    show_envvar=True,
    default=lambda: _default_file(KEY_FILE),
    metavar="FILE",
    help="The key file. Default: keys.toml beside cortex.toml.",
)
_at_least_one = click.IntRange(min=1)


@key.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["inference", "admin"]),
    default="inference",
    show_default=True,
    help="What it is for; admin may do all that inference may.",
)
@click.option(
    "--model", "models", multiple=True, metavar="ID", help="Model it may use, * for anything. May be repeated."
)
@click.option("--rpm", type=_at_least_one, help="Requests in any minute.")
@click.option("--tpm", type=_at_least_one, help="Tokens, of prompts and answers, in any minute.")
@click.option("--concurrency", type=_at_least_one, help="Requests under way at once.")
@click.option("--budget", type=_at_least_one, metavar="TOKENS", help="Tokens in any --window.")
@click.option("--window", metavar="DURATION", help="What the budget is for.  [default: 24h]")
@click.option("--expires", callback=_moment, metavar="WHEN", help="When it ends: 30d, or 2031-01-31.")
@file_option
def create(
    name: str,
    scope: str,
    models: tuple[str, ...],
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    budget: int | None,
    window: str | None,
    expires: datetime | None,
    file: Path,
) -> None:
    """Make a key called NAME and print it, this once: only its SHA-256 is kept.

    A limit that is not given does not apply.

    \b
    Examples:
      cortex key create ada
      cortex key create ci --model 'qwen*' --rpm 60 --budget 2000000 --window 24h --expires 90d
      cortex key create me --scope admin > ~/.config/cortex.key
    """
    from cortex.gateway.keys.issuing import issue

    if window is not None and budget is None:
        raise click.UsageError("--window says what a --budget is for; give both")
    given: dict[str, Any] = {
        "name": name,
        "expires": expires,
        "scope": scope,
        "models": models,
        "requests_per_minute": rpm,
        "tokens_per_minute": tpm,
        "concurrency": concurrency,
        "budget_tokens": budget,
        "budget_window": window or "24h",
    }
    with configuration():
        entry, secret = issue(file, given)
    click.echo(f"Key {entry.name} ({entry.id}) is in {file}. It is shown this once:", err=True)
    click.echo(secret.reveal())


@key.command("list")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where use is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@file_option
def list_keys(ledger: Path | None, as_json: bool, file: Path) -> None:
    """Show the keys: their limits, and what they have used where the gateway's ledger is at hand.

    \b
    Examples:
      cortex key list
      cortex key list --ledger /var/lib/cortex/ledger.db
      cortex key list --json | jq '.[].name'
    """
    from cortex.cli.tables import show
    from cortex.gateway.keys.file import load_keys
    from cortex.gateway.keys.issuing import described

    with configuration():
        keys = load_keys(file)
        use = _use_of(list(keys.by_id.values()), ledger, _ledger_of(file))
    for warning in keys.warnings:
        click.echo(f"Warning: {warning}", err=True)
    rows = [described(entry, *use.get(entry.id, (None, None))) for entry in keys.by_id.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        show(_table(rows))


@key.command()
@click.argument("name", metavar="ID|NAME")
@file_option
def revoke(name: str, file: Path) -> None:
    """Take a key out of the file. The next request that shows it is refused; what is under way goes on.

    \b
    Examples:
      cortex key revoke ada
      cortex key revoke 3f9a1c04b7de
    """
    from cortex.gateway.keys.file import remove_key

    with configuration():
        entry = remove_key(file, name)
    click.echo(f"Key {entry.name} ({entry.id}) is revoked.")


def _ledger_of(file: Path) -> Path:
    """Return where the gateway with the key file *file* keeps its ledger, as the configuration beside it says."""
    from cortex.gateway.config import load_config, state_directory

    config = file.parent / "cortex.toml"
    if not config.is_file():
        return file.parent / LEDGER
    return state_directory(config, load_config(config, os.environ), os.environ) / LEDGER


def _use_of(entries: list[KeyEntry], named: Path | None, beside: Path) -> Uses:
    """Return what each key used in all, and in its budget's window; nothing if no ledger is named or found."""
    from cortex.gateway.keys.issuing import uses, windows
    from cortex.gateway.keys.ledger import StoreError
    from cortex.gateway.keys.sqlite_store import SqliteStore

    path = named or (beside if beside.is_file() else None)
    if path is None:
        return {}
    store, now = SqliteStore(path, read_only=True), time.time()
    try:
        return uses(entries, store.totals(0), {each: store.totals(now - each) for each in windows(entries)})
    except StoreError as error:
        raise Failure(f"{path}: {error}") from None
    finally:
        store.close()


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "id", "scope", "models", "limits", "created", "expires", "last use", "used"):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [row["name"], row["id"], row["scope"], ", ".join(row["models"]) or "all", "\n".join(_limits(row))]
        cells += [row["created"] or "", row["expires"] or "never", row["last_used"] or "", _used(row)]
        table.add_row(*map(Text, cells))
    return table


def _limits(row: Mapping[str, Any]) -> list[str]:
    units = {
        "requests_per_minute": "requests/min",
        "tokens_per_minute": "tokens/min",
        "concurrency": "at once",
    }
    limits = [f"{row[name]} {unit}" for name, unit in units.items() if row[name] is not None]
    if row["budget_tokens"] is not None:
        used = f"{row['budget_used_tokens']} of " if row["budget_used_tokens"] is not None else ""
        limits.append(f"{used}{row['budget_tokens']} tokens in {row['budget_window_seconds'] / 3600:g} h")
    return limits or ["none"]


def _used(row: Mapping[str, Any]) -> str:
    return f"{row['tokens']} tokens in {row['requests']} requests" if row["tokens"] is not None else ""
