"""The seam between deciding and doing: what the reconciler has done, by the gateway or by the simulator."""

from __future__ import annotations

from typing import Protocol

from cortex.core.errors import CortexError
from cortex.core.model_spec import ModelSpec
from cortex.fleet.doors import Ticket
from cortex.fleet.plan import Plan
from cortex.fleet.route import Choice
from cortex.fleet.view import Spot
from cortex.fleet.work import Event


class Effects(Protocol):
    """What the reconciler can have done. Each call returns at once; its result comes back as a call."""

    def serve(self, ticket: Ticket, choice: Choice) -> None:
        """Give *ticket*, which waited, its replica; `finished` follows when its request is over."""
        ...

    def refuse(self, ticket: Ticket, error: CortexError) -> None:
        """Tell *ticket*, which waited, that it gets none."""
        ...

    def load(self, spec: ModelSpec, plan: Plan) -> None:
        """Load; then `loaded`."""
        ...

    def unload(self, spot: Spot) -> None:
        """Drain and unload; then `unloaded`."""
        ...

    def look(self, node: str) -> None:
        """Ask *node* how it is; then `view_changed` if it answers, and `looked` in any case."""
        ...

    def estimate(self, spec: ModelSpec, node: str) -> None:
        """Ask *node* what *spec* takes there; then `estimated`."""
        ...

    def note(self, event: Event) -> None:
        """Something has been decided, or has happened."""
        ...
