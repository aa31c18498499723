"""`models.toml`: what may be served. Aliases point at specs; each name means one thing."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cortex.core.config import load_toml
from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec, check_spec
from cortex.wire.ollama import plain_name


class _File(msgspec.Struct, forbid_unknown_fields=True):
    models: list[ModelSpec] = []


class Catalogue:
    """The specs, by id and by alias. `revision` is the same for the same specs, whatever the file looks like."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self.specs: Mapping[str, ModelSpec] = {spec.id: spec for spec in specs}
        self._aliases = {alias: spec for spec in self.specs.values() for alias in spec.aliases}
        by_id = sorted(self.specs.values(), key=lambda spec: spec.id)
        self.revision = hashlib.sha256(msgspec.json.encode(by_id, order="sorted")).hexdigest()[:12]

    def find(self, name: str) -> ModelSpec | None:
        """Return the spec that *name*, an id or an alias, means; one that is listed in Ollama's way may be asked so."""
        return self._named(name) or self._named(plain_name(name))

    def _named(self, name: str) -> ModelSpec | None:
        return self.specs.get(name) or self._aliases.get(name)

    def near(self, name: str, also: Iterable[str] = ()) -> list[str]:
        """Return known names that look like *name*."""
        return difflib.get_close_matches(name[:200], sorted({*self.specs, *self._aliases, *also}), n=3, cutoff=0.5)


@dataclass(frozen=True, slots=True)
class Changes:
    """The ids of models by what became of them, in alphabetical order."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def changed(old: Catalogue, new: Catalogue) -> Changes:
    """Return what is different in *new*."""
    before, after = old.specs, new.specs
    return Changes(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(id for id in before.keys() & after.keys() if before[id] != after[id])),
    )


def unknown_nodes(catalogue: Catalogue, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return, by the id of the model that says it may run there, the nodes that are not in *names*."""
    strange = {id: tuple(sorted(spec.allowed_nodes - set(names))) for id, spec in catalogue.specs.items()}
    return {id: nodes for id, nodes in strange.items() if nodes}


def load_catalogue(path: Path) -> Catalogue:
    """Return the catalogue at *path*. Raises ConfigError, also when there is no such file."""
    try:
        file = load_toml(path, _File)
    except ConfigError as error:
        if str(error).endswith("no such file"):
            hint = "list the models that may be served there (an empty file will do), or set models_config"
            raise ConfigError(f"{error}; {hint}") from None
        raise
    owners: dict[str, str] = {}
    for index, spec in enumerate(file.models):
        check_spec(spec, f"{path}: models[{index}]")
        for name in (spec.id, *spec.aliases):
            if name in owners:
                raise ConfigError(f"{path}: models[{index}]: {name!r} is already a name of {owners[name]!r}")
            owners[name] = spec.id
    return Catalogue(file.models)
