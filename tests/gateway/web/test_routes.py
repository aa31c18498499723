"""A browser's session: opened with a key, of use to nobody but the page, and over when the key is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cortex.gateway.config import KeySettings
from cortex.gateway.keys.entry import KeyEntry
from cortex.gateway.keys.file import add_key, load_keys, remove_key
from cortex.gateway.keys.secret import new_key
from fake_fleet import FakeFleet, Gateway, ask

pytestmark = pytest.mark.anyio

PAGE = {"x-cortex-ui": "1"}


@pytest.fixture
def keys(tmp_path: Path) -> KeySettings:
    return KeySettings(file=str(tmp_path / "keys.toml"))


def make(settings: KeySettings, name: str, **fields: Any) -> str:
    secret = new_key()
    add_key(Path(str(settings.file)), KeyEntry(name=name, sha256=secret.digest.hex(), **fields))
    return secret.reveal()


async def send(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
    content = json.dumps(body).encode() if body is not None else b""
    told = {"content-type": "application/json", **PAGE, **headers}
    return await gateway._client.request(method, gateway.url + path, content=content, headers=told)


async def sign_in(gateway: Gateway, key: str, **headers: str) -> httpx2.Response:
    return await send(gateway, "POST", "/ui/session", {"key": key}, **headers)


async def test_without_keys_everybody_is_an_admin_and_there_is_nothing_to_sign_in_with(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway()
    told = (await gateway.get("/ui/session", **PAGE)).json()
    refused = await sign_in(gateway, "ctx_any")

    assert (told["wants_key"], told["caller"]["scope"]) == (False, "admin")
    assert refused.status_code == 400


async def test_a_key_is_exchanged_for_a_cookie_that_scripts_and_other_sites_never_have(
    fleet: FakeFleet, keys: KeySettings
) -> None:
    key = make(keys, "ada", scope="admin")
    gateway = await fleet.gateway(keys=keys)
    answer = await sign_in(gateway, key)
    cookie = answer.headers["set-cookie"].lower()

    assert (answer.status_code, answer.json()["caller"]) == (200, {"name": "ada", "scope": "admin"})
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie
    assert key.lower() not in cookie
    assert (await gateway.get("/fleet", **PAGE)).status_code == 200


async def test_a_page_that_came_over_tls_gets_a_cookie_for_tls_alone(fleet: FakeFleet, keys: KeySettings) -> None:
    """Whoever ended the TLS, the browser says so in the Origin."""
    key = make(keys, "ada")
    gateway = await fleet.gateway(keys=keys)
    answer = await sign_in(gateway, key, host="llm.example.com", origin="https://llm.example.com")

    assert "secure" in answer.headers["set-cookie"].lower()


async def test_the_cookie_is_nothing_without_the_header_that_only_the_page_sends(
    fleet: FakeFleet, keys: KeySettings
) -> None:
    await fleet.node()
    key = make(keys, "ada", scope="admin")
    gateway = await fleet.gateway(keys=keys)
    await sign_in(gateway, key)
    bare = await gateway.get("/fleet")
    drained = await gateway._client.post(f"{gateway.url}/fleet/nodes/a/drain")
    chat = await gateway.post(ask())

    assert [bare.status_code, drained.status_code, chat.status_code] == [401, 401, 401]
    assert (await gateway.post(ask(), **PAGE)).status_code == 200


async def test_a_request_from_another_site_is_refused_with_all_that_a_page_could_send(
    fleet: FakeFleet, keys: KeySettings
) -> None:
    key = make(keys, "ada", scope="admin")
    gateway = await fleet.gateway(keys=keys)
    await sign_in(gateway, key)
    answer = await send(gateway, "POST", "/fleet/nodes/a/drain", origin="https://evil.example")

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")


@pytest.mark.parametrize("key", ["ctx_wrong", "", "sk-other"])
async def test_a_wrong_key_opens_nothing(fleet: FakeFleet, keys: KeySettings, key: str) -> None:
    make(keys, "ada")
    answer = await sign_in(await fleet.gateway(keys=keys), key)

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_who_is_not_signed_in_is_told_so_and_not_refused(fleet: FakeFleet, keys: KeySettings) -> None:
    make(keys, "ada")
    answer = await (await fleet.gateway(keys=keys)).get("/ui/session", **PAGE)

    assert (answer.status_code, answer.json()["wants_key"], answer.json()["caller"]) == (200, True, None)
    assert answer.headers["cache-control"] == "no-store"


async def test_a_key_for_inference_opens_the_playground_alone(fleet: FakeFleet, keys: KeySettings) -> None:
    await fleet.node()
    key = make(keys, "ada")
    gateway = await fleet.gateway(keys=keys)
    await sign_in(gateway, key)

    assert (await gateway.post(ask(), **PAGE)).status_code == 200
    for path in ("/fleet", "/fleet/live", "/metrics"):
        assert (await gateway.get(path, **PAGE)).status_code == 403


async def test_a_session_ends_with_its_key(fleet: FakeFleet, keys: KeySettings) -> None:
    key = make(keys, "ada", scope="admin")
    make(keys, "bob", scope="admin")
    gateway = await fleet.gateway(keys=keys)
    await sign_in(gateway, key)
    remove_key(Path(str(keys.file)), "ada")
    await gateway.cortex.access.take(load_keys(Path(str(keys.file))))

    assert (await gateway.get("/fleet", **PAGE)).status_code == 401


async def test_who_signs_out_is_out(fleet: FakeFleet, keys: KeySettings) -> None:
    key = make(keys, "ada", scope="admin")
    gateway = await fleet.gateway(keys=keys)
    await sign_in(gateway, key)
    cookie = gateway._client.cookies["cortex_session"]
    answer = await send(gateway, "DELETE", "/ui/session")

    assert "max-age=0" in answer.headers["set-cookie"].lower()
    assert (await gateway.get("/fleet", **PAGE, cookie=f"cortex_session={cookie}")).status_code == 401
