"""Ask a gateway to let this node join, and keep what it answers."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import msgspec

from cortex.cli.failures import Failure, Misconfigured
from cortex.cli.gateway_client import ANSWER_SECONDS, unreachable
from cortex.core.errors import ServiceError
from cortex.core.extras import check_extra
from cortex.neuron.identity import keep_identity
from cortex.serving.origin import is_loopback
from cortex.wire.errors import error_from
from cortex.wire.joining import JOIN, Joined, JoinRequest, parse_token

if TYPE_CHECKING:
    from cortex.neuron.config import NeuronConfig


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says: the gateway's URL, the token, and what the node is to be called and reached by."""

    gateway: str
    token: str
    name: str | None
    address: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """What the node is called in its fleet, and where it is reached."""

    name: str
    place: str


def join_fleet(asked: Asked, config: NeuronConfig) -> Place:
    """Join, and keep the identity that the gateway gives. Raises ConfigError, Failure."""
    token = parse_token(asked.token)
    check_extra("join", ("cryptography",), "joining a fleet")
    from cortex.neuron.joining import accepted, attempt

    if config.port == 0:
        raise Misconfigured("port = 0 is another one at each start, where no gateway finds it: name one with --port")
    name = asked.name or config.name or socket.gethostname().partition(".")[0]
    host = (asked.address or own_address(asked.gateway)).strip("[]")
    if asked.address is None and config.host is not None and is_loopback(config.host) and not is_loopback(host):
        reason = f"host = {config.host!r}: no gateway on another machine reaches this node there"
        raise Misconfigured(f"{reason}; take the line out, or say where it does with --address")
    tried = attempt(token, name, host, config.port)
    kept, identity = accepted(tried, _ask(asked.gateway, tried.request), asked.gateway)
    try:
        keep_identity(config.state_directory, kept, identity)
    except ServiceError as error:
        raise Failure(
            f"{error}; the token is used up: `cortex node remove {name}`, then invite the node again"
        ) from None
    return Place(name, f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}")


def own_address(gateway: str) -> str:
    """Return this machine's address on the way to *gateway*, a URL; nothing is sent for it. Raises Failure."""
    try:
        url = urlsplit(gateway)
        port = url.port or (443 if url.scheme == "https" else 80)
        family, kind, proto, _, address = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise Failure(f"{gateway} cannot be reached ({error}); is its address right?") from None


def _ask(gateway: str, request: JoinRequest) -> Joined:
    headers = {"content-type": "application/json"}
    body = msgspec.json.encode(request)
    try:
        answer = httpx2.post(gateway + JOIN, content=body, headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Failure(unreachable(gateway, error)) from None
    if answer.status_code != 201:
        raise Failure(f"{gateway} does not let this node join: {error_from(answer.status_code, answer.content)}")
    try:
        return msgspec.json.decode(answer.content, type=Joined)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Failure(f"{gateway} does not answer as a gateway does; is another program there?") from None
