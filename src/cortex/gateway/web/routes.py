"""The dashboard's routes: its files, and the session that a browser opens with a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex import __version__
from cortex.core.errors import AuthenticationFailed, BadRequest
from cortex.gateway.keys.sessions import COOKIE, LIFETIME_SECONDS
from cortex.gateway.web.files import GUARDS, serve_file, serve_page
from cortex.serving.application import json_body, json_response
from cortex.wire.json import decode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /ui/session`."""

    key: str


_sign_in = msgspec.json.Decoder(SignIn)


class WebRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/ui", serve_page),
            Route("/ui/", serve_page),
            Route("/ui/static/{path:path}", serve_file),
            Route("/ui/session", self.session),
            Route("/ui/session", self.sign_in, methods=["POST"]),
            Route("/ui/session", self.sign_out, methods=["DELETE"]),
        ]

    async def session(self, request: Request) -> Response:
        """`GET /ui/session`: who the browser is signed in as; nobody is no error here."""
        return self._told(request.scope["headers"])

    async def sign_in(self, request: Request) -> Response:
        """`POST /ui/session` with a key: exchange it for a cookie. Raises AuthenticationFailed, BadRequest."""
        access = self._gateway.access
        asked = decode(await json_body(request), _sign_in)
        if access.keys is None:
            raise BadRequest("this gateway asks for no key: there is nothing to sign in with", param="key")
        token = access.sign_in(asked.key)
        answer = self._told([(b"x-api-key", asked.key.strip().encode())])
        _set_cookie(answer, request, token, LIFETIME_SECONDS)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """`DELETE /ui/session`: end the session, and have the browser forget it."""
        self._gateway.access.sessions.close(request.scope["headers"])
        answer = json_response({"signed_out": True})
        _set_cookie(answer, request, "", 0)
        return answer

    def _told(self, headers: list[tuple[bytes, bytes]]) -> Response:
        access = self._gateway.access
        try:
            caller = access.enter(headers)
        except AuthenticationFailed:
            told = None
        else:
            told = {"name": caller.name, "scope": caller.scope}
        answer = json_response({"version": __version__, "wants_key": access.keys is not None, "caller": told})
        answer.headers.update({**GUARDS, "cache-control": "no-store"})
        return answer


def _set_cookie(answer: Response, request: Request, token: str, seconds: int) -> None:
    """Have the browser keep *token*; over TLS alone if the page came that way, whoever ended the TLS before us."""
    is_tls = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(COOKIE, token, max_age=seconds, path="/", secure=is_tls, httponly=True, samesite="strict")
