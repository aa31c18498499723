"""The routes of joining: invitations for admins, and the door that a token opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import PayloadTooLarge
from cortex.serving.application import json_body, json_response
from cortex.wire.joining import INVITES, JOIN, InviteOrder, JoinRequest
from cortex.wire.json import decode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

MAX_BODY_BYTES = 64 << 10  # for whoever has shown nothing yet
_invite = msgspec.json.Decoder(InviteOrder)
_join = msgspec.json.Decoder(JoinRequest)


class JoinRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [Route(INVITES, self.invite, methods=["POST"]), Route(JOIN, self.join, methods=["POST"])]

    async def invite(self, request: Request) -> Response:
        """`POST /fleet/invites`: a token for one node, told this once."""
        order = decode(await json_body(request), _invite)
        answer = json_response(msgspec.to_builtins(self._gateway.joining.invite(order)), status=201)
        answer.headers["cache-control"] = "no-store"
        return answer

    async def join(self, request: Request) -> Response:
        """`POST /fleet/join`: no key is asked for; what is asked is signed with a token."""
        body = await json_body(request)
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(MAX_BODY_BYTES)
        asked = decode(body, _join)
        peer = request.client.host if request.client is not None else ""
        return json_response(msgspec.to_builtins(self._gateway.join_node(asked, peer)), status=201)
