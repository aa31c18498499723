"""Let nodes in and out: who is invited, what they get, and how the gateway reaches those that have joined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from ssl import SSLContext

from cortex.core.errors import AuthenticationFailed
from cortex.core.extras import check_extra
from cortex.core.logging import get_logger
from cortex.gateway.joining.attempts import Attempts
from cortex.gateway.joining.authority import NEEDED, Authority, host_name
from cortex.gateway.joining.invites import Invites
from cortex.gateway.nodes import JoinedNode, Nodes
from cortex.gateway.upstream import Address, Secured
from cortex.wire.joining import Invited, InviteOrder, Joined, JoinRequest, Token, shown

log = get_logger(__name__)

DIRECTORY = "join"


class Joining:
    """Owns the authority, the invitations, and `secured`: how each joined node's address is connected to.

    A node is known by the one certificate that it was given: another of the same authority is not taken for it, and one
    that was removed for nobody. `clock` tells the seconds since 1970.
    """

    def __init__(self, state: Path, nodes: Nodes, clock: Callable[[], float] = time.time) -> None:
        """Read what is in *state*. Raises ConfigError when nodes have joined and what they know us by is not there."""
        self._nodes, self._clock = nodes, clock
        self._authority, self._invites = Authority(state / DIRECTORY), Invites(state / DIRECTORY)
        self._attempts = Attempts()
        self._context: SSLContext | None = None
        self.changed = asyncio.Event()
        self.secured: dict[Address, Secured] = {}
        self.follow(nodes.joined)

    def follow(self, joined: Iterable[JoinedNode]) -> None:
        """Connect to *joined*, and to no others, by the certificates that they were given. Raises ConfigError."""
        wanted = {node.address: host_name(node.serial) for node in joined}
        if wanted and self._context is None:
            self._context = self._authority.context()
        self.secured.clear()  # in place: the pools look into it
        self.secured.update({address: Secured(self._context, name) for address, name in wanted.items()})

    def invite(self, order: InviteOrder) -> Invited:
        """Return a token for one node. Raises BadRequest, ConfigError without the extra, ServiceError."""
        check_extra("join", NEEDED, "inviting nodes")
        if order.name is not None:
            self._nodes.check_free(order.name)
        now = self._clock()
        self._authority.establish(datetime.fromtimestamp(now, UTC))
        fingerprint = self._authority.fingerprint
        invite, secret = self._invites.make(now, order.seconds, order.name)
        self._tell()
        log.info("node_invited", invite=invite.id, name=order.name, seconds=order.seconds)
        token = Token(invite.id, secret, fingerprint)
        return Invited(token=str(token), expires_at=invite.expires_at, fingerprint=shown(fingerprint))

    def admit(self, asked: JoinRequest, peer: str) -> Joined:
        """Let the node that *asked* join; *peer* is the address that it comes from.

        Raises AuthenticationFailed without a valid token, RateLimited after too many of those, BadRequest when its name
        or address is wrong or another's, ConfigError, ServiceError. A refusal costs no token.
        """
        check_extra("join", NEEDED, "letting nodes join")
        now = self._clock()
        self._attempts.check(peer, now)
        try:
            invite = self._invites.check(asked, now)
        except AuthenticationFailed as error:
            self._attempts.failed(peer, now)
            log.warning("join_refused", name=asked.name, peer=peer, invite=asked.invite, reason=str(error))
            raise
        node = self._nodes.to_join(asked.name, asked.host, asked.port)
        issued = self._authority.issue(asked.csr, datetime.fromtimestamp(now, UTC))
        self._invites.used(invite, asked.name)
        self._nodes.join(node, issued.serial)
        self._tell()
        return Joined(name=asked.name, certificate=issued.certificate, authority=self._authority.certificate)

    def _tell(self) -> None:
        """Wake who waits for `changed`: who is invited is not as it was."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def open_until(self) -> float:
        """When the last open invitation expires, in seconds since 1970; 0 if there is none."""
        return max((invite.expires_at for invite in self._invites.open(self._clock())), default=0.0)

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the authority's certificate. Raises ConfigError."""
        return self._authority.fingerprint
