"""Say why a model that cannot be loaded, for lack of a spec, cannot be served. Pure."""

from __future__ import annotations

from cortex.core.errors import CortexError, ModelNotFound, ModelNotReady, NoHealthyNode
from cortex.fleet.situation import Situation


def uncatalogued(model: str, situation: Situation) -> CortexError:
    """Return why *model*, which the catalogue does not have and which is not ready anywhere, cannot be served."""
    view = situation.view
    states = [
        f"{replica.node}: {'being unloaded' if replica.spot in situation.leaving else replica.error or replica.state}"
        for replica in view.replicas_of(model)
        if replica.state != "unloaded"
    ]
    if states:
        return ModelNotReady(f"no replica of {model} can serve now: {'; '.join(states)}")
    if view.by_name and not any(node.healthy for node in view.nodes):
        return NoHealthyNode(f"no node answers, and the catalogue does not have {model[:200]!r}")
    return ModelNotFound(model)
