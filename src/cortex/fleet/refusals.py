"""Say what is waited for, and why a model that the catalogue does not have cannot be served. Pure."""

from __future__ import annotations

from cortex.core.errors import CortexError, ModelNotFound, ModelNotReady, NoHealthyNode
from cortex.core.model_spec import ModelSpec
from cortex.fleet.situation import Situation


def awaited(spec: ModelSpec, situation: Situation) -> list[str]:
    """Return the nodes that *spec* may run on and that said, not too long ago, that they would be back."""
    grace = situation.policy.restart_grace
    recent = [node for node, at in situation.restarting.items() if situation.now - at < grace]
    return [node for node in recent if not spec.allowed_nodes or node in spec.allowed_nodes]


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
