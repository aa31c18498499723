"""Take edits of `cortex.toml` and `models.toml` while the gateway runs; a broken edit is refused, the old one stays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from cortex.core.errors import ConfigError
from cortex.core.logging import get_logger
from cortex.gateway.catalogue import Catalogue, changed, load_catalogue
from cortex.gateway.config import GatewayConfig, catalogue_path, load_config, restart_keys

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
    """Looks at both files each second.

    An edit is taken when a second look finds the file as the first one did, so that one that is being written, or is
    missing for a moment, is not taken for what was meant. `on_config` and `on_catalogue` hear what is new.

    The first looks read both files again, since they may have been edited while the gateway started.
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
    ) -> None:
        """Watch the configuration at *path*, which *config* was read from, and its catalogue."""
        self.config, self.catalogue = config, catalogue
        self._env, self._started_with = env, config
        self._on_config, self._on_catalogue = on_config, on_catalogue
        self._config_file = _File(path)
        self._catalogue_file = _File(catalogue_path(path, config))
        self._wake = anyio.Event()

    @property
    def refusals(self) -> Mapping[str, str]:
        """Why the files as they are now are not in effect, by path; empty if they are."""
        files = (self._config_file, self._catalogue_file)
        return {str(file.path): file.refusal for file in files if file.refusal}

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

    def nudge(self) -> None:
        """Look now, and take what is there."""
        self._wake.set()

    async def look(self, *, at_once: bool = False) -> None:
        """Look once, and take what is new, if it has settled or *at_once*."""
        if self._config_file.is_edited(at_once=at_once):
            await self._read_config()
        if self._catalogue_file.is_edited(at_once=at_once):
            await self._read_catalogue()

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
