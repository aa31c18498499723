"""Who may talk to this neuron: whoever shows its token, by a name that it goes by."""

from __future__ import annotations

from collections.abc import Sequence

from cortex.core.errors import AuthenticationFailed
from cortex.serving.exchange import Exchange
from cortex.serving.hosts import HostCheck, own_names
from cortex.serving.origin import ANY_HOST, is_loopback
from cortex.wire.node_auth import is_authorized


class Door:
    """A `Site`'s check, for every path: the state of a node is nobody's business either.

    *listen* is the host that is listened on. Without *allowed_hosts* the token does what names are for, and so does the
    gateway's certificate where the node *has_joined*: a browser's visitor has neither.
    """

    def __init__(
        self, listen: str, token: str | None, allowed_hosts: Sequence[str] | None, *, has_joined: bool = False
    ) -> None:
        self._token = token
        if allowed_hosts is None:
            allowed_hosts = (ANY_HOST,) if token is not None or has_joined else own_names()
        self._check_host = HostCheck(listen, allowed_hosts)

    def __call__(self, exchange: Exchange) -> None:
        """Raise BadRequest, PermissionDenied or AuthenticationFailed unless *exchange* may come in."""
        self._check_host(exchange)
        if self._token is not None and not is_authorized(exchange.header(b"authorization"), self._token):
            raise AuthenticationFailed(
                "this node wants its token: `Authorization: Bearer …`, which a gateway has in keys.node_token_file"
            )


def open_to_others(listen: str, token: str | None) -> bool:
    """Whether anybody who reaches *listen*, a host to listen on, from another machine is let in."""
    return token is None and not is_loopback(listen)
