"""Which nodes there are: of the configuration, added by an operator, joined; and which are drained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from cortex.core.errors import BadRequest, RouteNotFound
from cortex.core.logging import get_logger
from cortex.core.state_file import keep, kept
from cortex.gateway.config import NeuronAddress, is_endpoint

log = get_logger(__name__)

FILE = "nodes.json"


class JoinedNode(NeuronAddress, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A node that joined; `serial` is that of its certificate, in hexadecimal."""

    serial: str = ""


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`nodes.json`. A mark outlives its node, so that an edit of the configuration puts nothing back into service."""

    added: tuple[NeuronAddress, ...] = ()
    joined: tuple[JoinedNode, ...] = ()
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
        return (*self._configured.values(), *self._added(), *self.joined)

    @property
    def joined(self) -> tuple[JoinedNode, ...]:
        """The nodes that joined, but for those whose name the configuration gives to another."""
        return tuple(node for node in self._state.joined if node.name not in self._configured)

    @property
    def drained(self) -> frozenset[str]:
        """The names of nodes that are taken out of service."""
        return frozenset(self._state.drained) & {node.name for node in self.addresses}

    def configure(self, configured: Iterable[NeuronAddress]) -> None:
        """Take *configured* for the nodes of the configuration from now on."""
        self._configured = {node.name: node for node in configured}
        for node in (*self._state.added, *self._state.joined):
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
        self._check_place(node)
        self._keep(added=(*self._added(), node))
        log.info("node_added", node=name, endpoint=endpoint)
        return node

    def to_join(self, name: str, host: str, port: int) -> JoinedNode:
        """Return the node that would join as *name*, without its certificate.

        Raises BadRequest when its name or address is wrong or another's.
        """
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _checked(name, f"http://{authority}")
        node = JoinedNode(name=name, endpoint=f"https://{authority}")
        self._check_place(node)
        return node

    def join(self, node: JoinedNode, serial: str) -> None:
        """Have *node*, which shows the certificate with *serial*, from now on. Raises ServiceError."""
        joined = msgspec.structs.replace(node, serial=serial)
        self._keep(joined=(*self._state.joined, joined))
        log.info("node_joined", node=node.name, endpoint=node.endpoint, serial=serial)

    def check_free(self, name: str) -> None:
        """Raise BadRequest if there is a node called *name*."""
        for other in self.addresses:
            if other.name == name:
                reason = f"node {name!r} is at {other.endpoint}; remove it first, or choose another name"
                raise BadRequest(reason, param="name", code="node_exists")

    def remove(self, name: str) -> None:
        """Forget a node that was added or joined, and that it was drained.

        Raises RouteNotFound when there is no such node, BadRequest when it is one of the configuration, ServiceError
        when that cannot be kept.
        """
        self._check(name)
        if name in self._configured:
            reason = f"node {name!r} is in the configuration file: take it out there, or drain it"
            raise BadRequest(reason, param="name", code="node_is_configured")
        self._keep(
            added=tuple(node for node in self._state.added if node.name != name),
            joined=tuple(node for node in self._state.joined if node.name != name),
            drained=tuple(other for other in self._state.drained if other != name),
        )
        log.info("node_removed", node=name)

    def drain(self, name: str) -> None:
        """Take a node out of service until `undrain`. Raises RouteNotFound, ServiceError."""
        self._check(name)
        if name not in self._state.drained:
            self._keep(drained=(*self._state.drained, name))
            log.info("node_drained", node=name)

    def undrain(self, name: str) -> None:
        """Put a node back into service. Raises RouteNotFound, ServiceError."""
        self._check(name)
        if name in self._state.drained:
            rest = tuple(other for other in self._state.drained if other != name)
            self._keep(drained=rest)
            log.info("node_undrained", node=name)

    def _added(self) -> tuple[NeuronAddress, ...]:
        return tuple(node for node in self._state.added if node.name not in self._configured)

    def _check(self, name: str) -> None:
        names = [node.name for node in self.addresses]
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there is none at all"
            raise RouteNotFound(f"there is no node {name[:200]!r}; {known}", code="node_not_found")

    def _check_place(self, node: NeuronAddress) -> None:
        """Raise BadRequest if the name or the address of *node* is another's."""
        self.check_free(node.name)
        for other in self.addresses:
            if other.address == node.address:
                reason = f"{node.endpoint} is node {other.name!r} already"
                raise BadRequest(reason, param="endpoint", code="node_exists")

    def _keep(self, **changed: tuple[Any, ...]) -> None:
        state = msgspec.structs.replace(self._state, **changed)
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
