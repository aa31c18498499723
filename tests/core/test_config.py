from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from cortex.core.config import load_toml
from cortex.core.errors import ConfigError


class Door(msgspec.Struct, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:1"
    width: Annotated[int, Meta(ge=1)] = 1
    open: bool = False


class Room(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    area: float = 1.0


class House(msgspec.Struct, forbid_unknown_fields=True):
    door: Door = msgspec.field(default_factory=Door)
    rooms: list[Room] = []
    owner: str | None = None


def load(tmp_path: Path, text: str, env: Mapping[str, str] | None = None) -> House:
    path = tmp_path / "house.toml"
    path.write_text(text)
    return load_toml(path, House, env=env, env_prefix="HOUSE_")


def refusal(tmp_path: Path, text: str, env: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, env)
    return str(caught.value)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == House()


def test_a_file_is_read_into_its_shape(tmp_path: Path) -> None:
    house = load(tmp_path, '[door]\nwidth = 3\n[[rooms]]\nname = "kitchen"\narea = 12.5\n')

    assert house.door.width == 3
    assert house.rooms == [Room("kitchen", 12.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("owners = 'Ada'", ("unknown key 'owners'", "did you mean 'owner'?")),
        ("zzz = 1", ("unknown key 'zzz'", "known keys here: door, owner, rooms")),
        ("[door]\nlistn = 'x'", ("unknown key 'door.listn'", "did you mean 'listen'?")),
        ("[[rooms]]\nname = 'a'\nsize = 1", ("rooms[0].size", "known keys here: area, name")),
        ("[dor]\nwidth = 1", ("unknown key 'dor'", "did you mean 'door'?")),
    ],
)
def test_an_unknown_key_is_named_with_what_was_likely_meant(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    reason = refusal(tmp_path, text)

    assert reason.startswith(str(tmp_path / "house.toml"))
    assert all(part in reason for part in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[door]\nwidth = '3'", "door.width: Expected `int`, got `str`"),
        ("[door]\nwidth = 0", "door.width: Expected `int` >= 1"),
        ("[door]\nwidth = 1.5", "door.width: Expected `int`, got `float`"),
        ("[door]\nopen = 1", "door.open: Expected `bool`, got `int`"),
        ("door = 5", "door: Expected `object`, got `int`"),
        ("rooms = 'all'", "rooms: Expected `array`, got `str`"),
        ("[[rooms]]\narea = 1", "rooms[0]: Object missing required field `name`"),
        ("[[rooms]]\nname = 'a'\n[[rooms]]\nname = 5", "Expected `str`, got `int`"),
        ("owner = 1979-05-27", "owner: Expected `str | null`"),
    ],
)
def test_a_wrong_type_names_the_key_and_what_was_expected(tmp_path: Path, text: str, said: str) -> None:
    reason = refusal(tmp_path, text)

    assert reason.startswith(f"{tmp_path / 'house.toml'}: ")
    assert said in reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        load_toml(tmp_path / "nowhere.toml", House)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_toml(tmp_path, House)


@pytest.mark.parametrize("text", ["[door", "width = ", "a = 1\na = 2", "x = nope", "[door]\n[door]\n"])
def test_what_is_not_toml_is_refused_with_the_place(tmp_path: Path, text: str) -> None:
    reason = refusal(tmp_path, text)

    assert "not valid TOML" in reason
    assert "line" in reason or "end of document" in reason


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_bytes(b"owner = '\xff'")

    with pytest.raises(ConfigError, match="utf-8"):
        load_toml(path, House)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HOUSE_DOOR__LISTEN": "0.0.0.0:80"}, Door(listen="0.0.0.0:80", width=2)),
        ({"HOUSE_DOOR__LISTEN": '"quoted"'}, Door(listen="quoted", width=2)),
        ({"HOUSE_DOOR__LISTEN": ""}, Door(listen="", width=2)),
        ({"HOUSE_DOOR__WIDTH": "9"}, Door(width=9)),
        ({"HOUSE_DOOR__OPEN": "true"}, Door(width=2, open=True)),
        ({"HOUSE_DOOR__WIDTH": "4", "HOUSE_DOOR__OPEN": "true"}, Door(width=4, open=True)),
        ({"CORTEX_DOOR__WIDTH": "9", "DOOR__WIDTH": "9", "house_door__width": "9"}, Door(width=2)),
    ],
)
def test_a_variable_overrides_the_file(tmp_path: Path, env: dict[str, str], expected: Door) -> None:
    assert load(tmp_path, "[door]\nwidth = 2", env).door == expected


def test_a_variable_can_give_a_whole_list(tmp_path: Path) -> None:
    house = load(tmp_path, "", {"HOUSE_ROOMS": '[{name = "attic"}]'})

    assert house.rooms == [Room("attic")]


def test_a_variable_of_one_word_that_is_no_key_is_not_configuration(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"HOUSE_LOG": "debug", "HOUSE_CACHE": "/var/cache"}) == House()


def test_no_prefix_means_no_overrides(tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text("owner = 'Ada'")

    assert load_toml(path, House, env={"OWNER": "Eve", "_OWNER": "Eve"}).owner == "Ada"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HOUSE_DOOR__WIDTH": "wide"}, "HOUSE_DOOR__WIDTH: door.width: Expected `int`, got `str`"),
        ({"HOUSE_DOOR__WIDTH": "0"}, "HOUSE_DOOR__WIDTH: door.width: Expected `int` >= 1"),
        ({"HOUSE_DOOR__LISTN": "x"}, "HOUSE_DOOR__LISTN: unknown key 'door.listn'; did you mean 'listen'?"),
        ({"HOUSE_DOR__LISTEN": "x"}, "HOUSE_DOR__LISTEN: unknown key 'dor'; did you mean 'door'?"),
        ({"HOUSE_ROOMS": "[{area = 1}]"}, "HOUSE_ROOMS: rooms[0]: Object missing required field `name`"),
        ({"HOUSE_ROOMS": "[{name = 'a', size = 1}]"}, "HOUSE_ROOMS: unknown key 'rooms[0].size'"),
        ({"HOUSE_OWNER": "5"}, "HOUSE_OWNER: owner: Expected `str | null`, got `int`"),
        ({"HOUSE_OWNER__NAME": "x"}, "HOUSE_OWNER__NAME: 'owner' is not a table"),
    ],
)
def test_what_a_variable_got_wrong_is_said_of_the_variable(tmp_path: Path, env: dict[str, str], said: str) -> None:
    assert refusal(tmp_path, "owner = 'Ada'", env).startswith(said)


def test_what_the_file_got_wrong_is_said_of_the_file(tmp_path: Path) -> None:
    """An innocent variable in the same table does not take the blame."""
    reason = refusal(tmp_path, "[door]\nwidth = 'x'", {"HOUSE_DOOR__OPEN": "true"})

    assert reason.startswith(str(tmp_path / "house.toml"))


def test_a_file_that_only_others_may_read_is_said_to_be_theirs(tmp_path: Path) -> None:
    file = tmp_path / "house.toml"
    file.touch(mode=0o000)
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"house\.toml: this user may not read it; .* for root and the service"):
            load_toml(file, House)
    finally:
        os.seteuid(mine)
