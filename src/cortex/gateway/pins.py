"""Which models an operator pinned while the gateway ran: they are never evicted, until they are unpinned."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cortex.core.errors import BadRequest
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.core.state_file import keep, kept
from cortex.gateway.catalogue import Catalogue

log = get_logger(__name__)

FILE = "pins.json"


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pins.json`. A mark outlives its model, as long as the catalogue may have it back."""

    pinned: tuple[str, ...] = ()


class Pins:
    """Owns the marks, kept in a file of its *directory*; the catalogue's own `pinned` stands beside them."""

    def __init__(self, directory: Path) -> None:
        """Read the file, if there is one. Raises ConfigError."""
        self._file = directory / FILE
        self._state = kept(self._file, _State, "which models were pinned") or _State()

    @property
    def models(self) -> frozenset[str]:
        """The ids of the models that are pinned by an operator."""
        return frozenset(self._state.pinned)

    def applied(self, catalogue: Catalogue) -> Catalogue:
        """Return *catalogue* with the marks in it."""
        if not self.models & catalogue.specs.keys():
            return catalogue
        return Catalogue(self._applied(spec) for spec in catalogue.specs.values())

    def _applied(self, spec: ModelSpec) -> ModelSpec:
        return msgspec.structs.replace(spec, pinned=True) if spec.id in self.models else spec

    def pin(self, spec: ModelSpec) -> None:
        """Mark the model of *spec*. Raises ServiceError when that cannot be kept."""
        if spec.id not in self.models:
            self._keep((*self._state.pinned, spec.id))
            log.info("model_pinned", model=spec.id)

    def unpin(self, written: ModelSpec) -> None:
        """Take the mark off a model whose entry in the catalogue is *written*.

        Raises BadRequest when it is pinned there, ServiceError when that cannot be kept.
        """
        if written.pinned:
            reason = f"{written.id} is pinned in the catalogue's file: take `pinned` out there"
            raise BadRequest(reason, param="pinned", code="pinned_in_catalogue")
        if written.id in self.models:
            self._keep(tuple(model for model in self._state.pinned if model != written.id))
            log.info("model_unpinned", model=written.id)

    def _keep(self, pinned: tuple[str, ...]) -> None:
        state = _State(pinned)
        keep(self._file, state)
        self._state = state
