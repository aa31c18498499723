"""Preload `default_models` one after the other, behind a listener that is already bound, and tell how far it is."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from cortex.core.errors import CortexError, ShuttingDown
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.neuron.models import Models
from cortex.wire.node_api import Activation, FailedModel

log = get_logger(__name__)

# A box may boot before its network does: what a repeat can mend is repeated, at longer and longer intervals.
RETRY_SECONDS = (10, 20, 40, 80, 160, 300)


class Preload:
    """Owns the activation state of the node."""

    def __init__(self, models: Models, specs: Sequence[ModelSpec]) -> None:
        self._models, self._specs = models, specs
        self.state = Activation(state="pre_warming" if specs else "ready", pending=[spec.id for spec in specs])

    async def run(self) -> None:
        """Load every spec once, then retry those that may succeed later. A failure never stops the others."""
        again = [spec for spec in self._specs if await self._load(spec)]
        if self.state.state == "pre_warming":
            self.state.state = "ready"
        for delay in RETRY_SECONDS:
            if not again:
                return
            log.warning("preload_retry", models=[spec.id for spec in again], in_seconds=delay)
            await anyio.sleep(delay)
            again = [spec for spec in again if await self._load(spec)]

    async def _load(self, spec: ModelSpec) -> bool:
        """Load *spec* unless the node is on its way out; return whether trying again later makes sense."""
        if self.state.state == "draining":
            return False
        if spec.id in self.state.pending:
            self.state.pending.remove(spec.id)
        self.state.in_progress = spec.id
        self.state.failed = [failed for failed in self.state.failed if failed.model_id != spec.id]
        try:
            await self._models.load(spec, spec.wanted_devices)
        except CortexError as error:
            self.state.failed.append(FailedModel(spec.id, str(error)))
            log.error("preload_failed", model=spec.id, error=str(error))
            return error.should_retry is not False and not isinstance(error, ShuttingDown)
        else:
            self.state.completed.append(spec.id)
            return False
        finally:
            self.state.in_progress = None
