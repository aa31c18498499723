"""Who may ask what: invitations are an admin's, and joining is open to whoever has a token."""

from __future__ import annotations

from pathlib import Path

import httpx2
import msgspec
import pytest

from cortex.gateway.config import KeySettings
from cortex.gateway.joining.routes import MAX_BODY_BYTES
from cortex.gateway.keys.file import load_keys
from cortex.gateway.keys.issuing import issue
from cortex.neuron.joining import attempt
from cortex.wire.joining import INVITES, JOIN, Joined, JoinRequest, parse_token
from fake_fleet import FakeFleet, Gateway

pytestmark = pytest.mark.anyio


class Asking:
    """A gateway with a key for an admin, and one for inference."""

    def __init__(self, gateway: Gateway, keys: dict[str, str]) -> None:
        self._gateway, self._keys = gateway, keys

    async def post(self, path: str, content: bytes, key: str | None = None) -> httpx2.Response:
        headers = {"content-type": "application/json"}
        if key is not None:
            headers["authorization"] = f"Bearer {self._keys[key]}"
        return await self._gateway._client.request("POST", self._gateway.url + path, content=content, headers=headers)

    async def join(self, request: JoinRequest) -> httpx2.Response:
        return await self.post(JOIN, msgspec.json.encode(request))


@pytest.fixture
async def asking(fleet: FakeFleet, tmp_path: Path) -> Asking:
    file = tmp_path / "keys.toml"
    keys = {scope: issue(file, {"name": scope, "scope": scope})[1].reveal() for scope in ("admin", "inference")}
    assert len(load_keys(file).by_id) == 2
    return Asking(await fleet.gateway(keys=KeySettings(file=str(file))), keys)


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("inference", 403), ("admin", 201)])
async def test_only_an_admin_invites(asking: Asking, key: str | None, status: int) -> None:
    assert (await asking.post(INVITES, b"{}", key)).status_code == status


async def test_whoever_has_a_token_joins_without_a_key_and_only_once(asking: Asking) -> None:
    invited = await asking.post(INVITES, b'{"seconds": 60}', "admin")
    tried = attempt(parse_token(invited.json()["token"]), "attic", "127.0.0.1", 9)
    first, second = await asking.join(tried.request), await asking.join(tried.request)

    assert invited.headers["cache-control"] == "no-store"
    assert (first.status_code, second.status_code) == (201, 401)
    assert msgspec.json.decode(first.content, type=Joined).name == "attic"
    assert second.json()["error"]["code"] == "invitation_refused"


@pytest.mark.parametrize("body", [b'{"seconds": 0}', b'{"seconds": 700000}', b'{"name": "a b"}', b'{"days": 1}', b"[]"])
async def test_an_invitation_that_cannot_be_is_refused(asking: Asking, body: bytes) -> None:
    assert (await asking.post(INVITES, body, "admin")).status_code == 400


async def test_nobody_without_a_key_has_much_read(asking: Asking) -> None:
    assert (await asking.post(JOIN, b" " * (MAX_BODY_BYTES + 1))).status_code == 413
    assert (await asking.post(JOIN, b"{}")).status_code == 400
