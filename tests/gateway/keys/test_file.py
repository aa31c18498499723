from __future__ import annotations

import os
import stat
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import ConfigError
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key, load_keys, remove_key
from cortex.gateway.keys.secret import new_key

DIGEST = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def entry(name: str, **limits: object) -> KeyEntry:
    return KeyEntry(name=name, sha256=new_key().digest.hex(), **limits)  # type: ignore[arg-type]


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_keys(path)
    return str(caught.value)


def test_what_was_added_is_what_is_loaded(path: Path) -> None:
    ada = entry(
        "ada",
        scope="admin",
        models=("qwen*", "org/m:Q4_0"),
        requests_per_minute=1,
        tokens_per_minute=2,
        concurrency=3,
        budget_tokens=4,
        budget_window="7d",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        expires=datetime(2031, 1, 2, tzinfo=UTC),
    )
    bob = entry("bob")
    add_key(path, ada)
    add_key(path, bob)

    assert list(load_keys(path).by_id.values()) == [ada, bob]
    assert load_keys(path).by_id[ada.id] == ada
    assert load_keys(path).warnings == ()


def test_a_new_file_is_for_its_owner_alone(path: Path) -> None:
    add_key(path, entry("ada"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_file_is_its_group_s_to_read_where_the_directory_passes_its_group_on(path: Path) -> None:
    """So root makes keys that the gateway's own user can read."""
    path.parent.chmod(0o2755)
    add_key(path, KeyEntry(name="ada", sha256=DIGEST))

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_edit_keeps_the_mode_that_the_owner_chose(path: Path) -> None:
    write(path, "", 0o640)
    add_key(path, entry("ada"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_edit_keeps_comments_and_what_was_edited_by_hand(path: Path) -> None:
    for name in ("ada", "bob", "cyd"):
        add_key(path, entry(name))
    text = path.read_text()
    head, ada, bob, cyd = text.split("[[keys]]")
    path.write_text("[[keys]]".join([head, ada, bob + "# for the night shift\n", cyd + "concurrency = 2 # a lot\n"]))

    remove_key(path, "bob")
    add_key(path, entry("dan"))

    left = path.read_text()
    assert [e.name for e in load_keys(path).by_id.values()] == ["ada", "cyd", "dan"]
    assert left.startswith(head)
    assert '# for the night shift\n[[keys]]\nname = "cyd"' in left
    assert "concurrency = 2 # a lot\n" in left


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_key_is_removed_by_its_name_or_its_id(path: Path, by: str) -> None:
    ada, bob = entry("ada"), entry("bob")
    add_key(path, ada)
    add_key(path, bob)

    assert remove_key(path, getattr(ada, by)) == ada
    assert list(load_keys(path).by_id.values()) == [bob]


def test_removing_the_last_key_leaves_a_file_that_lets_nobody_in(path: Path) -> None:
    add_key(path, entry("ada"))
    remove_key(path, "ada")

    assert load_keys(path).by_id == {}


def test_what_is_not_there_is_not_removed(path: Path) -> None:
    add_key(path, entry("ada"))
    before = path.read_text()

    with pytest.raises(ConfigError, match="'eve': there is no such key"):
        remove_key(path, "eve")
    assert path.read_text() == before


def test_a_name_that_is_another_keys_id_must_be_told_apart(path: Path) -> None:
    ada = entry("ada")
    add_key(path, ada)
    add_key(path, entry(ada.id))

    with pytest.raises(ConfigError, match="one key has it for its name, another for its id"):
        remove_key(path, ada.id)


def test_a_name_is_given_once(path: Path) -> None:
    add_key(path, entry("ada"))

    with pytest.raises(ConfigError, match="a key named 'ada' already"):
        add_key(path, entry("ada"))
    assert len(load_keys(path).by_id) == 1


def test_keys_in_another_form_of_toml_are_edited_by_hand(path: Path) -> None:
    before = f'keys = [{{name = "ada", sha256 = "{DIGEST}"}}]\n'
    write(path, before)

    assert [e.name for e in load_keys(path).by_id.values()] == ["ada"]
    with pytest.raises(ConfigError, match="take 'ada' out by hand"):
        remove_key(path, "ada")
    with pytest.raises(ConfigError, match="not valid TOML"):
        add_key(path, entry("bob"))
    assert path.read_text() == before


def test_a_broken_file_is_never_edited(path: Path) -> None:
    write(path, "[[keys]]\nname = \n")

    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2"):
        add_key(path, entry("ada"))
    assert path.read_text() == "[[keys]]\nname = \n"
    assert sorted(os.listdir(path.parent)) == ["keys.toml", "keys.toml.lock"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = \n", ("not valid TOML", "line 1")),
        ("limit = 1", ("unknown key 'limit'",)),
        ("[[keys]]\nname = 'a'", ("keys[0]", "missing required field `sha256`")),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nrpm = 1", ("unknown key 'keys[0].rpm'",)),
        (f"[[keys]]\nname = 'a b'\nsha256 = '{DIGEST}'", ("keys[0].name",)),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nscope = 'root'", ("keys[0].scope",)),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nbudget_tokens = 0", ("keys[0].budget_tokens",)),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nmodels = ['a b']", ("keys[0].models[0]",)),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nexpires = 2031-01-01", ("keys[0].expires",)),
        (
            f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nbudget_window = 'soon'",
            ("keys[0] (a)", "budget_window = 'soon'"),
        ),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\nbudget_window = '30s'", ("keys[0] (a)", "one minute")),
        (f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\n" * 2, ("keys[1] (a)", "another key has this name")),
        (
            f"[[keys]]\nname = 'a'\nsha256 = '{DIGEST}'\n[[keys]]\nname = 'b'\nsha256 = '{DIGEST}'",
            ("keys[1] (b)", "another key has this id"),
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_line_or_key(path: Path, text: str, said: tuple[str, ...]) -> None:
    message = refusal(write(path, text))

    assert str(path) in message
    for part in said:
        assert part in message


@pytest.mark.parametrize("field", ["name", "sha256", "key", "scope", "models", "budget_window"])
def test_a_key_that_was_pasted_into_the_file_is_not_repeated(path: Path, field: str) -> None:
    secret = new_key().reveal()
    good = {"name": "'a'", "sha256": f"'{DIGEST}'"}
    fields = {**good, field: f"['{secret}', ' ']" if field == "models" else f"'{secret}'"}

    message = refusal(write(path, "[[keys]]\n" + "".join(f"{k} = {v}\n" for k, v in fields.items())))

    assert secret not in message


def test_a_missing_file_names_the_command_that_makes_one(path: Path) -> None:
    assert "cortex key create" in refusal(path)


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    assert f"chmod 600 {path}" in refusal(write(path, "", mode))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o604, True), (0o644, True)])
def test_a_file_that_anybody_may_read_is_loaded_with_a_warning(path: Path, mode: int, warned: bool) -> None:
    assert bool(load_keys(write(path, "", mode)).warnings) == warned


def test_a_linked_file_is_edited_where_it_is(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    add_key(link, entry("ada"))

    assert link.is_symlink()
    assert len(load_keys(path).by_id) == 1


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        add_key(tmp_path / "gone" / "keys.toml", entry("ada"))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=8))
def test_no_edit_of_several_at_once_is_lost(edits: list[tuple[int, bool]]) -> None:
    """Each thread adds keys of its own, and takes some out again; readers see whole files only."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "keys.toml"
        add_key(path, entry("first"))
        start = threading.Barrier(len(edits) + 1)

        def edit(number: int, count: int, take_out: bool) -> None:
            start.wait()
            for at in range(count):
                add_key(path, entry(f"k{number}-{at}"))
            if take_out and count:
                remove_key(path, f"k{number}-0")

        threads = [
            threading.Thread(target=edit, args=(number, count, out)) for number, (count, out) in enumerate(edits)
        ]
        for thread in threads:
            thread.start()
        start.wait()
        while any(thread.is_alive() for thread in threads):
            assert load_keys(path).find("first")
        for thread in threads:
            thread.join()

        expected = {f"k{n}-{at}" for n, (count, out) in enumerate(edits) for at in range(1 if out else 0, count)}
        assert {e.name for e in load_keys(path).by_id.values()} == {"first", *expected}
