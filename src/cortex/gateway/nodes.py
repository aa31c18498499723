"""Which nodes there are: those of the configuration and those an operator added; and which are drained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from cortex.core.errors import BadRequest, RouteNotFound
from cortex.core.logging import get_logger
from cortex.gateway.config import NeuronAddress, is_endpoint
from cortex.gateway.state_file import keep, kept

log = get_logger(__name__)

FILE = "nodes.json"


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`nodes.json`. A mark outlives its node, so that an edit of the configuration puts nothing back into service."""

    added: tuple[NeuronAddress, ...] = ()
    drained: tuple[str, ...] = ()


class Nodes:
    """What operators said of the nodes, kept in a file of its *directory*; nothing is believed before it is on disk."""

    def __init__(self, configured: Iterable[NeuronAddress], directory: Path) -> None:
        """Read the file, if there is one. Raises ConfigError when it cannot be understood."""
        self._file = directory / FILE
        self._configured: dict[str, NeuronAddress] = {}
        self._state = _read(self._file)
        self.configure(configured)

    @property
    def addresses(self) -> tuple[NeuronAddress, ...]:
        """All nodes, those of the configuration first; where both have a name, the configuration's holds."""
        return (*self._configured.values(), *self._added())

    @property
    def drained(self) -> frozenset[str]:
        """The names of nodes that are taken out of service."""
        return frozenset(self._state.drained) & {node.name for node in self.addresses}

    def configure(self, configured: Iterable[NeuronAddress]) -> None:
        """Take *configured* for the nodes of the configuration from now on."""
        self._configured = {node.name: node for node in configured}
        for node in self._state.added:
            if node.name in self._configured:
                log.warning("added_node_is_configured", node=node.name, ignored=node.endpoint)

    def add(self, name: str, endpoint: str) -> NeuronAddress:
        """Add a node, or say again that it is there; return its address.

        Raises BadRequest when its name or address is wrong or another's, ServiceError when it cannot be kept.
        """
        node = _checked(name, endpoint)
        for other in self.addresses:
            if (other.name, other.address) == (node.name, node.address):
                return other
            if other.name == node.name:
                reason = f"node {name!r} is at {other.endpoint}; remove it first, or choose another name"
                raise BadRequest(reason, param="name", code="node_exists")
            if other.address == node.address:
                raise BadRequest(f"{endpoint} is node {other.name!r} already", param="endpoint", code="node_exists")
        self._keep(added=(*self._added(), node), drained=self._state.drained)
        log.info("node_added", node=name, endpoint=endpoint)
        return node

    def remove(self, name: str) -> None:
        """Forget a node that was added, and that it was drained.

        Raises RouteNotFound when there is no such node, BadRequest when it is one of the configuration, ServiceError
        when that cannot be kept.
        """
        self._check(name)
        if name in self._configured:
            reason = f"node {name!r} is in the configuration file: take it out there, or drain it"
            raise BadRequest(reason, param="name", code="node_is_configured")
        rest = tuple(node for node in self._state.added if node.name != name)
        self._keep(added=rest, drained=tuple(other for other in self._state.drained if other != name))
        log.info("node_removed", node=name)

    def drain(self, name: str) -> None:
        """Take a node out of service until `undrain`. Raises RouteNotFound, ServiceError."""
        self._check(name)
        if name not in self._state.drained:
            self._keep(added=self._state.added, drained=(*self._state.drained, name))
            log.info("node_drained", node=name)

    def undrain(self, name: str) -> None:
        """Put a node back into service. Raises RouteNotFound, ServiceError."""
        self._check(name)
        if name in self._state.drained:
            rest = tuple(other for other in self._state.drained if other != name)
            self._keep(added=self._state.added, drained=rest)
            log.info("node_undrained", node=name)

    def _added(self) -> tuple[NeuronAddress, ...]:
        return tuple(node for node in self._state.added if node.name not in self._configured)

    def _check(self, name: str) -> None:
        names = [node.name for node in self.addresses]
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there is none at all"
            raise RouteNotFound(f"there is no node {name[:200]!r}; {known}", code="node_not_found")

    def _keep(self, *, added: tuple[NeuronAddress, ...], drained: tuple[str, ...]) -> None:
        state = _State(added=added, drained=drained)
        keep(self._file, state)
        self._state = state


def _checked(name: str, endpoint: str) -> NeuronAddress:
    try:
        node = msgspec.convert({"name": name, "endpoint": endpoint}, NeuronAddress)
    except msgspec.ValidationError:
        reason = f"name {name[:200]!r}: expected up to 63 letters, digits, '.', '_' and '-'"
        raise BadRequest(reason, param="name") from None
    if not is_endpoint(endpoint):
        raise BadRequest(f"endpoint {endpoint[:200]!r}: expected http://host:port", param="endpoint")
    return node


def _read(file: Path) -> _State:
    return kept(file, _State, "which nodes were added and drained") or _State()
