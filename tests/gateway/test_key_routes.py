"""Keys over HTTP: in force at once, shown once, and never so that the last admin locks the door behind itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cortex.gateway.config import KeySettings
from cortex.gateway.keys.file import load_keys
from cortex.gateway.keys.issuing import issue
from fake_fleet import FakeFleet, Gateway, ask

pytestmark = pytest.mark.anyio


class Ring:
    """A gateway with a key of scope admin, with which it is asked."""

    def __init__(self, gateway: Gateway, file: Path, admin: str) -> None:
        self.gateway, self.file, self.admin = gateway, file, admin

    async def __call__(self, method: str, path: str, **body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.admin}", "content-type": "application/json"}
        content = json.dumps(body).encode() if body else b""
        return await self.gateway._client.request(method, self.gateway.url + path, content=content, headers=headers)


@pytest.fixture
async def ring(fleet: FakeFleet, tmp_path: Path) -> Ring:
    file = tmp_path / "keys.toml"
    _, admin = issue(file, {"name": "me", "scope": "admin"})
    await fleet.node()
    return Ring(await fleet.gateway(keys=KeySettings(file=str(file))), file, admin.reveal())


async def test_a_key_is_made_shown_once_and_in_force_at_once(ring: Ring) -> None:
    made = await ring("POST", "/keys", name="ada", models=["m*"], budget_tokens=5000, budget_window="1h", expires="30d")
    key = made.json()["key"]
    used = await ring.gateway.post(ask(), authorization=f"Bearer {key}")
    await ring.gateway.idle()
    listed = await ring("GET", "/keys")

    assert (made.status_code, made.headers["cache-control"], used.status_code) == (201, "no-store", 200)
    me, ada = listed.json()["data"]
    assert (me["name"], ada["name"], ada["models"], ada["budget_window_seconds"]) == ("me", "ada", ["m*"], 3600.0)
    assert (ada["requests"], ada["tokens"], ada["budget_used_tokens"]) == (1, 10, 10)
    assert key not in listed.text
    assert key not in ring.file.read_text()


async def test_a_key_that_is_revoked_lets_nobody_in_any_more(ring: Ring) -> None:
    key = (await ring("POST", "/keys", name="ada")).json()["key"]
    gone = await ring("DELETE", "/keys/ada")

    assert gone.json()["revoked"]
    assert (await ring.gateway.post(ask(), authorization=f"Bearer {key}")).status_code == 401
    assert [entry.name for entry in load_keys(ring.file).by_id.values()] == ["me"]


async def test_what_is_wrong_with_a_key_is_said_without_the_path_of_the_file(ring: Ring) -> None:
    await ring("POST", "/keys", name="ada")
    for body, status, word in (
        ({"name": "ada"}, 400, "there is a key named 'ada' already"),
        ({"name": "a b"}, 400, "name"),
        ({"name": "b", "scope": "root"}, 400, "scope"),
        ({"name": "b", "budget_window": "1h"}, 400, "give both"),
        ({"name": "b", "expires": "soon"}, 400, "expires"),
        ({"name": "b", "concurrency": 0}, 400, "concurrency"),
    ):
        answer = await ring("POST", "/keys", **body)
        assert (answer.status_code, word in answer.json()["error"]["message"]) == (status, True), answer.text
        assert str(ring.file.parent) not in answer.text


async def test_the_last_key_of_an_admin_stays(ring: Ring) -> None:
    answer = await ring("DELETE", "/keys/me")
    await ring("POST", "/keys", name="you", scope="admin")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_admin_key")
    assert (await ring("DELETE", "/keys/you")).status_code == 200
    assert (await ring("DELETE", "/keys/nobody")).status_code == 404


async def test_keys_are_for_admins(ring: Ring) -> None:
    key = (await ring("POST", "/keys", name="ada")).json()["key"]

    assert (await ring.gateway.get("/keys", authorization=f"Bearer {key}")).status_code == 403


async def test_the_first_key_is_an_admins_and_closes_the_gateway(fleet: FakeFleet, tmp_path: Path) -> None:
    gateway = await fleet.gateway()
    ring = Ring(gateway, tmp_path, "ctx_none")
    refused = await ring("POST", "/keys", name="ada")
    made = await ring("POST", "/keys", name="me", scope="admin")

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "first_key_is_no_admin")
    assert (await gateway.get("/keys")).status_code == 401
    ring.admin = made.json()["key"]
    assert [key["name"] for key in (await ring("GET", "/keys")).json()["data"]] == ["me"]


async def test_a_gateway_that_asks_for_no_keys_makes_none(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway(keys=KeySettings(auth="none"))
    answer = await Ring(gateway, Path(), "ctx_none")("POST", "/keys", name="me", scope="admin")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "keys_are_off")
