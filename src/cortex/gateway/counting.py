"""Count tokens without a load: on a replica that serves, without taking a slot of it, else on a node with the files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cortex.core.errors import UpstreamFailed, UpstreamTimeout
from cortex.core.logging import get_logger
from cortex.core.model_spec import ModelSpec
from cortex.fleet.view import FleetView
from cortex.gateway.control import Answer, Control
from cortex.gateway.poller import Poller
from cortex.gateway.steward import load_request
from cortex.wire.json import encode

log = get_logger(__name__)

# A vocabulary is loaded in a second or two; a node that takes longer has no time for this.
COUNT_SECONDS = 20.0


async def count_without_load(
    poller: Poller, control: Control, model: str, spec: ModelSpec | None, fields: dict[str, Any]
) -> Answer | None:
    """Return the first answer to `/tokenize` that is a count or blames the request; None if no node gives one.

    *fields* are those of the request; *spec* is the model's in the catalogue, if it is there.
    """
    for node in nodes_to_ask(poller.view, model, spec):
        body = {**fields, "model": model}
        if spec is not None:
            body["spec"] = load_request(spec)
        try:
            answer = await control.post(poller.address(node), "/tokenize", encode(body), COUNT_SECONDS)
        except (UpstreamFailed, UpstreamTimeout, KeyError) as error:
            log.info("count_failed", node=node, model=model, error=str(error))
            continue
        if answer.status in (200, 400):
            return answer
        log.debug("count_refused", node=node, model=model, status=answer.status)
    return None


def nodes_to_ask(view: FleetView, model: str, spec: ModelSpec | None) -> Iterator[str]:
    """Yield the nodes that may count for *model*, each once: first those that serve it, then those that could."""
    serving = [replica.node for replica in view.replicas_of(model) if replica.state == "ready"]
    yield from serving
    if spec is None:
        return
    for node in view.nodes:
        allowed = not spec.allowed_nodes or node.name in spec.allowed_nodes
        able = node.usable and not node.leaving and spec.engine_name in node.engines
        if able and allowed and node.name not in serving:
            yield node.name
