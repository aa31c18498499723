from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from cortex.core.errors import ConfigError
from cortex.gateway.catalogue import Catalogue, load_catalogue
from cortex.gateway.config import GatewayConfig, load_config
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import Keys, add_key, remove_key
from cortex.gateway.watch import Watch

pytestmark = pytest.mark.anyio

CONFIG = '[gateway]\nlisten = "127.0.0.1:1"\n'
NODE = '[[neurons]]\nname = "attic"\nendpoint = "http://attic:1"\n'
MODEL = '[[models]]\nid = "a/b"\n'
OTHER = '[[models]]\nid = "c/d"\n'


class Desk:
    """The files on a desk, and who watches them. Each edit has a time of its own, as if a second had passed."""

    def __init__(self, directory: Path, env: dict[str, str] | None = None) -> None:
        self.config, self.models = directory / "cortex.toml", directory / "models.toml"
        self.key_file = directory / "keys.toml"
        self.rings: list[Keys] = []
        self.in_the_way: ConfigError | None = None
        self.edits = 0
        self.configs: list[GatewayConfig] = []
        self.catalogues: list[Catalogue] = []
        self.logs: list[Any] = []
        self.write(self.config, CONFIG)
        self.write(self.models, MODEL)
        self.watch = Watch(
            self.config,
            env or {},
            load_config(self.config, env or {}),
            load_catalogue(self.models),
            on_config=self.configs.append,
            on_catalogue=self.catalogues.append,
            key_file=self.key_file,
            on_keys=self.take,
        )

    async def take(self, keys: Keys) -> None:
        if self.in_the_way is not None:
            raise self.in_the_way
        self.rings.append(keys)

    def add_key(self, name: str) -> None:
        add_key(self.key_file, KeyEntry(name=name, sha256=name.encode().hex().ljust(64, "0")))
        self.touch(self.key_file)

    def write(self, path: Path, text: str) -> None:
        path.write_text(text)
        self.touch(path)

    def touch(self, path: Path) -> None:
        self.edits += 1
        os.utime(path, (1e9 + self.edits, 1e9 + self.edits))

    async def look(self, times: int = 2, *, at_once: bool = False) -> list[str]:
        """Look so many times; return the events that were logged."""
        with capture_logs() as logs:
            for _ in range(times):
                await self.watch.look(at_once=at_once)
        self.logs += logs
        return [line["event"] for line in logs]


@pytest.fixture
async def desk(tmp_path: Path, anyio_backend: object) -> Desk:
    desk = Desk(tmp_path)
    assert await desk.look() == []
    return desk


async def test_files_that_nobody_edits_are_not_told_of(desk: Desk) -> None:
    assert await desk.look(5) == []
    assert (desk.configs, desk.catalogues, desk.watch.refusals, desk.watch.needs_restart) == ([], [], {}, ())


async def test_an_edit_of_the_catalogue_takes_effect(desk: Desk) -> None:
    desk.write(desk.models, MODEL.replace('"a/b"', '"a/b"\ncontext = 9') + OTHER)

    assert await desk.look() == ["catalogue_changed"]
    [catalogue] = desk.catalogues
    assert list(catalogue.specs) == ["a/b", "c/d"]
    assert desk.watch.catalogue is catalogue
    line = desk.logs[-1]
    assert (line["added"], line["removed"], line["changed"]) == (("c/d",), (), ("a/b",))
    assert line["revision"] == catalogue.revision
    assert await desk.look(5) == []


async def test_an_edit_while_the_gateway_started_is_seen(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.write(desk.models, OTHER)

    assert await desk.look() == ["catalogue_changed"]


async def test_a_file_that_is_being_written_is_left_alone_until_it_is_whole(desk: Desk) -> None:
    """Half a catalogue may well be a valid one, and would take models away from their clients."""
    text = MODEL + OTHER
    for end in (0, len(MODEL), len(MODEL) + 5, len(text)):
        desk.write(desk.models, text[:end])
        assert await desk.look(1) == []

    assert await desk.look(1) == ["catalogue_changed"]
    assert list(desk.catalogues[0].specs) == ["a/b", "c/d"]


async def test_whoever_says_so_need_not_wait(desk: Desk) -> None:
    desk.write(desk.models, OTHER)

    assert await desk.look(1, at_once=True) == ["catalogue_changed"]


@pytest.mark.parametrize("size", ["another size", "the same size"])
async def test_a_file_that_is_put_in_place_of_the_old_one_is_an_edit(desk: Desk, tmp_path: Path, size: str) -> None:
    """As many editors save: its time may even be that of the old one."""
    status = desk.models.stat()
    draft = tmp_path / "models.toml~"
    draft.write_text(OTHER if size == "the same size" else MODEL + OTHER)
    os.utime(draft, ns=(status.st_mtime_ns, status.st_mtime_ns))
    draft.replace(desk.models)

    assert await desk.look() == ["catalogue_changed"]


async def test_a_comment_is_an_edit_that_changes_nothing(desk: Desk) -> None:
    desk.write(desk.models, f"# mine\n{MODEL}")
    desk.write(desk.config, f"# mine\n{CONFIG}")

    assert await desk.look() == []
    assert (desk.configs, desk.catalogues) == ([], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [("[[models]", "not valid TOML"), ("[[models]]\nidd = 'x'", "unknown key"), (MODEL + MODEL, "is already a name")],
)
async def test_a_broken_edit_is_refused_once_and_the_old_one_stays(desk: Desk, text: str, said: str) -> None:
    old = desk.watch.catalogue
    desk.write(desk.models, text)

    assert await desk.look(5) == ["catalogue_refused"]
    assert (desk.catalogues, desk.watch.catalogue) == ([], old)
    [(file, reason)] = desk.watch.refusals.items()
    assert file == str(desk.models)
    assert said in reason
    assert (desk.logs[-1]["level"], desk.logs[-1]["error"]) == ("error", reason)


async def test_each_broken_edit_is_refused_for_itself(desk: Desk) -> None:
    desk.write(desk.models, "[[models]")
    await desk.look()
    desk.write(desk.models, "[[models]\n")

    assert await desk.look() == ["catalogue_refused"]


async def test_a_refusal_ends_with_the_edit_that_repairs_it_or_takes_it_back(desk: Desk) -> None:
    for text, events in ((OTHER, ["catalogue_changed"]), (OTHER, [])):
        desk.write(desk.models, "[[models]")
        await desk.look()
        assert desk.watch.refusals
        desk.write(desk.models, text)

        assert await desk.look() == events
        assert desk.watch.refusals == {}


async def test_a_deleted_file_is_refused_too_and_may_come_back(desk: Desk) -> None:
    desk.models.unlink()
    desk.config.unlink()

    assert await desk.look(5) == ["config_refused", "catalogue_refused"]
    assert all("no such file" in reason for reason in desk.watch.refusals.values())
    desk.write(desk.config, CONFIG)
    desk.write(desk.models, OTHER)
    assert await desk.look() == ["catalogue_changed"]
    assert desk.watch.refusals == {}


async def test_a_file_that_is_missing_for_a_moment_is_not_missed(desk: Desk) -> None:
    desk.models.unlink()
    assert await desk.look(1) == []
    desk.write(desk.models, MODEL)

    assert await desk.look(3) == []


async def test_what_takes_effect_at_once_needs_no_restart(desk: Desk) -> None:
    live = '[eviction]\nstrategy = "priority"\n[limits]\nmisses = 9\n'
    desk.write(desk.config, CONFIG + 'log = "debug"\n' + live + NODE)

    assert await desk.look() == ["config_changed"]
    [config] = desk.configs
    assert (config.eviction.strategy, config.limits.misses, config.gateway.log) == ("priority", 9, "debug")
    assert [node.name for node in config.neurons] == ["attic"]
    assert desk.watch.needs_restart == ()


async def test_what_needs_a_restart_is_named_until_it_is_taken_back(desk: Desk) -> None:
    desk.write(desk.config, 'models_config = "x.toml"\n[gateway]\nlisten = "127.0.0.1:2"\nstate = "s"\n' + NODE)

    assert await desk.look() == ["config_changed", "needs_restart"]
    assert sorted(desk.logs[-1]["keys"]) == ["gateway.listen", "gateway.state", "models_config"]
    assert set(desk.watch.needs_restart) == set(desk.logs[-1]["keys"])
    assert [node.name for node in desk.configs[0].neurons] == ["attic"], "the rest takes effect all the same"
    desk.write(desk.config, CONFIG)
    assert await desk.look() == ["config_changed"]
    assert desk.watch.needs_restart == ()


async def test_a_broken_configuration_is_refused_and_the_old_one_stays(desk: Desk) -> None:
    desk.write(desk.config, CONFIG + 'log = "loud"\n')

    assert await desk.look(5) == ["config_refused"]
    assert "'loud' is not a level" in desk.watch.refusals[str(desk.config)]
    assert (desk.configs, desk.watch.config.gateway.log) == ([], "info")


async def test_the_environment_still_wins_over_an_edit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, {"CORTEX_LIMITS__MISSES": "7"})
    desk.write(desk.config, CONFIG + "[limits]\nmisses = 2\nstall_seconds = 9\n")
    await desk.look()

    assert (desk.configs[0].limits.misses, desk.configs[0].limits.stall_seconds) == (7, 9.0)


async def test_it_looks_by_itself_and_at_once_when_nudged(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = anyio.Event()
    monkeypatch.setattr(desk.watch, "_on_catalogue", lambda _: heard.set())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            monkeypatch.setattr("cortex.gateway.watch.LOOK_SECONDS", 0.001)
            tasks.start_soon(desk.watch.run)
            desk.write(desk.models, OTHER)
            await heard.wait()
            tasks.cancel_scope.cancel()
        heard = anyio.Event()
        async with anyio.create_task_group() as tasks:
            monkeypatch.setattr("cortex.gateway.watch.LOOK_SECONDS", 60.0)
            tasks.start_soon(desk.watch.run)
            desk.write(desk.models, MODEL)
            desk.watch.nudge()
            await heard.wait()
            tasks.cancel_scope.cancel()


async def test_who_nudged_hears_when_what_is_there_was_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.gateway.watch.LOOK_SECONDS", 60.0)
    done, taken = anyio.Event(), []
    monkeypatch.setattr(desk.watch, "_on_nudged", lambda: (taken.extend(desk.catalogues), done.set()))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.watch.run)
        desk.write(desk.models, OTHER)
        desk.watch.nudge()
        with anyio.fail_after(5):
            await done.wait()
        tasks.cancel_scope.cancel()

    assert [list(catalogue.specs) for catalogue in taken] == [["c/d"]]


# the keys -------------------------------------------------------------------------------------------------------------


def names(keys: Keys) -> list[str]:
    return [entry.name for entry in keys.by_id.values()]


async def test_the_first_key_is_taken_when_there_is_a_file(desk: Desk) -> None:
    desk.add_key("ada")

    assert await desk.look() == ["keys_changed"]
    assert names(desk.rings[-1]) == ["ada"]
    desk.touch(desk.key_file)
    assert await desk.look(5) == []


async def test_a_key_that_is_revoked_is_told_of_by_number(desk: Desk) -> None:
    for name in ("ada", "bob"):
        desk.add_key(name)
    await desk.look()
    remove_key(desk.key_file, "bob")
    desk.touch(desk.key_file)

    assert await desk.look() == ["keys_changed"]
    assert names(desk.rings[-1]) == ["ada"]
    assert {name: desk.logs[-1][name] for name in ("keys", "added", "removed")} == {"keys": 1, "added": 0, "removed": 1}


@pytest.mark.parametrize("text", ["[[keys]]\nname = 'x'", "not TOML", None])
async def test_a_broken_edit_of_the_keys_leaves_those_that_were_and_says_so(desk: Desk, text: str | None) -> None:
    """Above all, whoever deletes the file does not let everybody in."""
    desk.add_key("ada")
    await desk.look()
    if text is None:
        desk.key_file.unlink()
    else:
        desk.write(desk.key_file, text)

    assert await desk.look() == ["keys_refused"]
    assert len(desk.rings) == 1
    assert list(desk.watch.refusals) == [str(desk.key_file)]
    desk.key_file.unlink(missing_ok=True)
    desk.add_key("bob")
    assert await desk.look() == ["keys_changed"]
    assert desk.watch.refusals == {}


async def test_keys_that_cannot_be_put_in_force_are_refused(desk: Desk) -> None:
    desk.in_the_way = ConfigError("what the keys have used cannot be read: disk I/O error")
    desk.add_key("ada")

    assert await desk.look() == ["keys_refused"]
    assert "disk I/O error" in desk.watch.refusals[str(desk.key_file)]
    desk.in_the_way = None
    desk.touch(desk.key_file)
    assert await desk.look() == ["keys_changed"]
