"""Keys over HTTP: what `cortex key` does, in the same file and by the same rules, in force at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortex.core.errors import BadRequest, ConfigError, Conflict, RouteNotFound
from cortex.core.logging import get_logger
from cortex.gateway.access import caller_of
from cortex.gateway.keys.entry import KeyEntry, Scope
from cortex.gateway.keys.file import Keys, load_keys, remove_key
from cortex.gateway.keys.issuing import described, issue, moment
from cortex.serving.application import json_body, json_response
from cortex.wire.json import decode

if TYPE_CHECKING:
    from cortex.gateway.app import CortexGateway

log = get_logger(__name__)


class NewKey(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /keys`: a name, what the key is for, and its limits; one that is not given does not apply.

    *expires* is a duration such as `30d`, or a date; *budget_window* is what the budget is for, `24h` without it.
    """

    name: str
    scope: Scope = "inference"
    models: list[str] = []
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget_tokens: int | None = None
    budget_window: str | None = None
    expires: str | None = None


_new_key = msgspec.json.Decoder(NewKey)


class KeyRoutes:
    """Handlers over a gateway."""

    def __init__(self, gateway: CortexGateway) -> None:
        self._gateway = gateway

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/keys", self.list),
            Route("/keys", self.create, methods=["POST"]),
            Route("/keys/{name}", self.revoke, methods=["DELETE"]),
        ]

    async def list(self, _: Request) -> Response:
        """`GET /keys`: every key with its limits and what it has used."""
        access = self._gateway.access
        entries = tuple(access.keys.by_id.values()) if access.keys is not None else ()
        used = await access.uses(entries)
        data = [described(entry, *used.get(entry.id, (None, None))) for entry in entries]
        return json_response({"object": "list", "wants_key": access.keys is not None, "data": data})

    async def create(self, request: Request) -> Response:
        """`POST /keys`: make a key, which is told this once. Raises BadRequest, Conflict."""
        asked = decode(await json_body(request), _new_key)
        file, keys = self._file(), self._gateway.access.keys
        if not (keys and keys.by_id) and asked.scope != "admin":
            reason = "the first key shuts out all who have none: make it one of scope admin, then the others"
            raise Conflict(reason, param="scope", code="first_key_is_no_admin")
        given = _fields(asked)
        try:
            entry, secret = await to_thread.run_sync(issue, file, given)
        except ConfigError as error:
            raise BadRequest(_without(file, error)) from None
        await self._take(file)
        log.info("key_created", key=entry.name, by=caller_of(request).name)
        answer = json_response({**described(entry, None, None), "key": secret.reveal()}, status=201)
        answer.headers["cache-control"] = "no-store"
        return answer

    async def revoke(self, request: Request) -> Response:
        """`DELETE /keys/{name}`: a name, or an id. Raises RouteNotFound, Conflict, BadRequest."""
        name, file = request.path_params["name"], self._file()
        keys = self._gateway.access.keys
        found = keys.find(name) if keys is not None else []
        if keys is None or len(found) != 1:
            why = "two keys go by it, one by name and one by id" if found else "there is no such key"
            raise RouteNotFound(f"{name[:100]!r}: {why}", code="key_not_found")
        _check_not_last(found[0], keys)
        try:
            entry = await to_thread.run_sync(remove_key, file, name)
        except ConfigError as error:
            raise BadRequest(_without(file, error)) from None
        await self._take(file)
        log.info("key_revoked", key=entry.name, by=caller_of(request).name)
        return json_response({"name": entry.name, "id": entry.id, "revoked": True})

    def _file(self) -> Path:
        file = self._gateway.access.key_file
        if file is None:
            raise Conflict('keys.auth is "none": this gateway asks for no keys, and keeps none', code="keys_are_off")
        return file

    async def _take(self, file: Path) -> None:
        """Put the file in force now, not when its edit is noticed."""
        await self._gateway.take_keys(await to_thread.run_sync(load_keys, file))


def _fields(asked: NewKey) -> dict[str, Any]:
    """Return what *asked* says as the fields of an entry. Raises BadRequest."""
    if asked.budget_window is not None and asked.budget_tokens is None:
        raise BadRequest("budget_window says what budget_tokens are for; give both", param="budget_window")
    given = msgspec.structs.asdict(asked)
    given["budget_window"] = asked.budget_window or "24h"
    if asked.expires is not None:
        try:
            given["expires"] = moment(asked.expires, datetime.now(UTC).replace(microsecond=0))
        except ValueError as error:
            raise BadRequest(f"expires: {error}", param="expires") from None
    return given


def _check_not_last(entry: KeyEntry, keys: Keys) -> None:
    """Raise Conflict if nobody could make another key over HTTP once *entry* is gone."""
    admins = [each for each in keys.by_id.values() if each.scope == "admin"]
    if admins == [entry]:
        reason = (
            f"{entry.name} is the last key of scope admin; `cortex key revoke {entry.name}` takes it out all the same"
        )
        raise Conflict(reason, code="last_admin_key")


def _without(file: Path, error: ConfigError) -> str:
    """Return the message of *error* without the name of the file, which is nothing to who asks over HTTP."""
    return str(error).removeprefix(f"{file}: ").removeprefix(f"{file.resolve()}: ")
