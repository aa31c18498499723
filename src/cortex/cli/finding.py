"""Find gateways on this network by what they announce over mDNS."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from cortex.cli.failures import Failure
from cortex.core.extras import check_extra
from cortex.wire.joining import FINGERPRINT_KEY, SERVICE_TYPE, shown

if TYPE_CHECKING:
    from zeroconf import Zeroconf

FIND_SECONDS, CONNECT_SECONDS = 5.0, 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """A gateway that announces itself: its name, where it may be reached, and its authority's fingerprint."""

    name: str
    addresses: tuple[str, ...]
    port: int
    fingerprint: bytes


def find_gateway(fingerprint: bytes, interfaces: Sequence[str] = (), seconds: float = FIND_SECONDS) -> Found:
    """Return the gateway with *fingerprint*, looked for on *interfaces*, addresses, or on all for at most *seconds*.

    Raises Failure, which names the others that were found; ConfigError without the extra.
    """
    check_extra("join", ("zeroconf",), "finding a gateway by mDNS")
    from zeroconf import InterfaceChoice, ServiceBrowser, Zeroconf

    names: SimpleQueue[str] = SimpleQueue()

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        names.put(name)

    try:
        zeroconf = Zeroconf(interfaces=list(interfaces) or InterfaceChoice.All)
    except OSError as error:
        raise Failure(f"mDNS cannot be used here ({error}); name the gateway: neuron join GATEWAY") from None
    try:
        ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[on_change])
        return _first(fingerprint, zeroconf, names, time.monotonic() + seconds)
    finally:
        zeroconf.close()


def reachable(found: Found) -> str:
    """Return the URL of the first address of *found* that takes connections. Raises Failure."""
    for address in found.addresses:
        try:
            socket.create_connection((address, found.port), CONNECT_SECONDS).close()
        except OSError:
            continue
        return f"http://[{address}]:{found.port}" if ":" in address else f"http://{address}:{found.port}"
    raise Failure(f"{found.name} announces itself at {_listed(found.addresses)}, and takes connections at none of them")


def _first(fingerprint: bytes, zeroconf: Zeroconf, names: SimpleQueue[str], deadline: float) -> Found:
    others: dict[str, Found] = {}
    while (left := deadline - time.monotonic()) > 0:
        try:
            found = _resolved(zeroconf, names.get(timeout=left))
        except Empty:
            break
        if found is not None and found.fingerprint == fingerprint:
            return found
        if found is not None:
            others[found.name] = found
    told = "; ".join(f"{other.name} has {shown(other.fingerprint)}" for other in others.values())
    reason = "no gateway on this network announces the fingerprint that is in the token"
    raise Failure(f"{reason}{f' ({told})' if told else ''}; name its address: neuron join GATEWAY --token …")


def _resolved(zeroconf: Zeroconf, name: str) -> Found | None:
    info = zeroconf.get_service_info(SERVICE_TYPE, name, timeout=2000)
    if info is None or info.port is None:
        return None
    try:
        fingerprint = bytes.fromhex((info.properties.get(FINGERPRINT_KEY.encode()) or b"").decode("ascii"))
    except ValueError:
        return None
    return Found(name.removesuffix(f".{SERVICE_TYPE}"), tuple(info.parsed_addresses()), info.port, fingerprint)


def _listed(addresses: Iterable[str]) -> str:
    return ", ".join(addresses) or "no address"
