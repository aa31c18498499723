"""Take edits of configuration, catalogue and keys while the gateway runs; a broken one is refused, the old stays."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from cortex.core.errors import ConfigError
from cortex.core.logging import get_logger
from cortex.gateway.catalogue import Catalogue, changed, load_catalogue
from cortex.gateway.config import GatewayConfig, catalogue_path, load_config, restart_keys
from cortex.gateway.keys.file import Keys, load_keys

log = get_logger(__name__)

LOOK_SECONDS = 1.0

Mark = tuple[int, int, int] | None
"""What tells one edit of a file from another; None if there is no file."""


@dataclass
class _File:
    """A file, as it was when it was last read, and as it was when it was last looked at."""

    path: Path
    read: Mark = None
    seen: Mark = None
    refusal: str = ""

    def is_edited(self, *, at_once: bool) -> bool:
        """Return whether it is to be read again: it changed, and nobody is at it, or nobody waits for that."""
        mark = mark_of(self.path)
        settled = at_once or mark == self.seen
        self.seen = mark
        if mark == self.read or not settled:
            return False
        self.read = mark
        return True


class Watch:
    """Looks at the files each second.

    An edit is taken when a second look finds the file as the first one did, so that one that is being written, or is
    missing for a moment, is not taken for what was meant. `on_config`, `on_catalogue` and `on_keys` hear what is new;
    the last one may raise ConfigError.

    The first looks read the files again, since they may have been edited while the gateway started.
    """

    def __init__(
        self,
        path: Path,
        env: Mapping[str, str],
        config: GatewayConfig,
        catalogue: Catalogue,
        *,
        on_config: Callable[[GatewayConfig], None],
        on_catalogue: Callable[[Catalogue], None],
        keys: Keys | None = None,
        key_file: Path | None = None,
        on_keys: Callable[[Keys], Awaitable[None]] | None = None,
        on_nudged: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch the configuration at *path*, which *config* was read from, its catalogue, and its keys if it has any.

        A *key_file* that is not there yet is taken when it is. One that was there and is gone is a broken edit: whoever
        deletes it must not open the gateway to everybody. *on_nudged* hears that what `nudge` asked for was done.
        """
        self.config, self.catalogue, self.keys = config, catalogue, keys
        self._env, self._started_with = env, config
        self._on_config, self._on_catalogue, self._on_keys = on_config, on_catalogue, on_keys
        self._on_nudged = on_nudged
        self._config_file = _File(path)
        self._catalogue_file = _File(catalogue_path(path, config))
        self._key_file = _File(key_file) if key_file is not None else None
        self._wake = anyio.Event()

    @property
    def refusals(self) -> Mapping[str, str]:
        """Why the files as they are now are not in effect, by path; empty if they are."""
        files = (self._config_file, self._catalogue_file, self._key_file)
        return {str(file.path): file.refusal for file in files if file is not None and file.refusal}

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """The keys that were edited and take effect at the next start."""
        return restart_keys(self._started_with, self.config)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            with anyio.move_on_after(LOOK_SECONDS):
                await self._wake.wait()
            at_once = self._wake.is_set()
            if at_once:
                self._wake = anyio.Event()
            await self.look(at_once=at_once)
            if at_once:
                self._on_nudged()

    def nudge(self) -> None:
        """Look now, and take what is there."""
        self._wake.set()

    async def look(self, *, at_once: bool = False) -> None:
        """Look once, and take what is new, if it has settled or *at_once*."""
        if self._config_file.is_edited(at_once=at_once):
            await self._read_config()
        if self._catalogue_file.is_edited(at_once=at_once):
            await self._read_catalogue()
        if self._key_file is not None and self._key_file.is_edited(at_once=at_once):
            await self._read_keys(self._key_file)

    async def _read_config(self) -> None:
        file = self._config_file
        try:
            config = await anyio.to_thread.run_sync(load_config, file.path, self._env)
        except ConfigError as error:
            self._refuse("config_refused", file, error)
            return
        file.refusal = ""
        if config == self.config:
            return
        self.config = config
        log.info("config_changed", file=str(file.path))
        if self.needs_restart:
            log.warning("needs_restart", file=str(file.path), keys=list(self.needs_restart))
        self._on_config(config)

    async def _read_catalogue(self) -> None:
        file = self._catalogue_file
        try:
            catalogue = await anyio.to_thread.run_sync(load_catalogue, file.path)
        except ConfigError as error:
            self._refuse("catalogue_refused", file, error)
            return
        file.refusal = ""
        changes = changed(self.catalogue, catalogue)
        if not changes:
            return
        self.catalogue = catalogue
        told = {"added": changes.added, "removed": changes.removed, "changed": changes.changed}
        log.info("catalogue_changed", revision=catalogue.revision, **told)
        self._on_catalogue(catalogue)

    async def _read_keys(self, file: _File) -> None:
        try:
            keys = await anyio.to_thread.run_sync(load_keys, file.path)
            is_new = keys != self.keys
            if is_new and self._on_keys is not None:
                await self._on_keys(keys)
        except ConfigError as error:
            self._refuse("keys_refused", file, error)
            return
        file.refusal = ""
        if is_new:
            before, after = (set(known.by_id) if known is not None else set() for known in (self.keys, keys))
            self.keys = keys
            log.info("keys_changed", keys=len(after), added=len(after - before), removed=len(before - after))

    def _refuse(self, event: str, file: _File, error: ConfigError) -> None:
        file.refusal = str(error)
        log.error(event, error=file.refusal, effect="the former one stays")


def mark_of(path: Path) -> Mark:
    """Return the mark of the file at *path*."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
