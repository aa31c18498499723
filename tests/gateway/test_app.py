"""The gateway as a whole, from the outside: its other pages, its listeners, and what it is like on its way out."""

from __future__ import annotations

import asyncio
import signal
import socket
from functools import partial
from pathlib import Path

import anyio
import httpx2
import pytest

from cortex.core.errors import ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.app import listeners_for
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import Gateway as Addresses
from cortex.gateway.config import GatewayConfig, load_config
from cortex.serving.run import serve
from cortex.serving.supervisor import Supervisor
from fake_fleet import STREAM, Call, FakeFleet, ask, soon

pytestmark = pytest.mark.anyio


async def test_health_tells_of_each_node(fleet: FakeFleet) -> None:
    await fleet.node("a")
    down = await fleet.node("b")
    await down.stop()
    gateway = await fleet.gateway()
    for path in ("/", "/health"):
        body = (await gateway.get(path)).json()
        assert (body["status"], body["nodes"]) == ("ok", {"healthy": 1, "total": 2})
        assert [(node["name"], node["healthy"]) for node in body["details"]] == [("a", True), ("b", False)]


async def test_a_model_is_described_under_its_id_and_its_alias(fleet: FakeFleet) -> None:
    await fleet.node("a", **{"org/m": "ready"})
    gateway = await fleet.gateway(ModelSpec(id="org/m", aliases=("short",)))
    listed = (await gateway.get("/v1/models")).json()
    (entry,) = listed["data"]

    assert (listed["object"], entry["id"], entry["state"]) == ("list", "org/m", "ready")
    for name in ("org/m", "org%2Fm", "short"):
        assert (await gateway.get(f"/v1/models/{name}")).json() == entry


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/models/nope", "model_not_found"),
        ("/v1/models/..%2f..%2fetc", "model_not_found"),
        ("/nope", "not_found"),
        ("/fleet/", "not_found"),
        ("/v1/chat/completions", "method_not_allowed"),
    ],
)
async def test_what_does_not_exist_is_an_error_in_the_envelope(fleet: FakeFleet, path: str, code: str) -> None:
    answer = await (await fleet.gateway()).get(path)

    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-request-id"]


async def test_a_gateway_on_its_way_out_ends_what_it_has_and_takes_nothing_new(fleet: FakeFleet) -> None:
    node, going = await fleet.node(), asyncio.Event()
    gateway = await fleet.gateway()

    async def late(call: Call) -> None:
        await going.wait()
        await call.answer()

    node.script(late)
    begun = asyncio.ensure_future(gateway.post(ask(stream=True)))
    await node.call()
    gateway.cortex.drain.begun = True
    refused = await gateway.post(ask())
    health = (await gateway.get("/health")).json()
    going.set()

    assert (await soon(begun)).content == STREAM
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert health["status"] == "draining"


async def test_both_listeners_serve_until_told_to_stop_and_the_second_only_figures(tmp_path: Path) -> None:
    config = GatewayConfig(gateway=Addresses(listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", state=str(tmp_path)))
    (tmp_path / "models.toml").touch()
    listeners = listeners_for(config, Catalogue(), tmp_path / "cortex.toml")
    api, metrics = (f"http://{listener.address}" for listener in listeners)
    async with httpx2.AsyncClient(trust_env=False, verify=False) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(serve, listeners, grace_seconds=1))
        assert (await soon(client.get(api + "/health"))).json()["status"] == "degraded"
        for path in ("/", "/metrics"):
            assert "cortex_requests" in (await soon(client.get(metrics + path))).text
        assert (await client.get(metrics + "/v1/models")).status_code == 404
        signal.raise_signal(signal.SIGTERM)


async def test_a_reload_is_told_to_the_supervisor_with_what_came_of_it(tmp_path: Path) -> None:
    addresses = f'[gateway]\nlisten = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:0"\nstate = "{tmp_path}"\n'
    file = tmp_path / "cortex.toml"
    file.write_text(addresses)
    (tmp_path / "models.toml").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(10)
        supervisor = Supervisor(ear.getsockname())
        listeners = listeners_for(load_config(file, {}), Catalogue(), file, supervisor)

        async def heard() -> list[str]:
            return (await anyio.to_thread.run_sync(ear.recv, 4096)).decode().split("\n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, listeners, grace_seconds=1, supervisor=supervisor))
            assert (await heard())[0] == "READY=1"
            file.write_text(f"{addresses}nonsense = 1\n")
            signal.raise_signal(signal.SIGHUP)
            reloading, ready = await heard(), await heard()
            signal.raise_signal(signal.SIGTERM)

    assert reloading[0] == "RELOADING=1"
    assert ready[0] == "READY=1"
    assert f"{file} is not in effect" in ready[1]
    assert "nonsense" in ready[1]


async def test_an_address_that_is_taken_stops_the_start_and_names_its_key(fleet: FakeFleet, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{(await fleet.node()).port}"
    with pytest.raises(ConfigError, match=r"gateway\.listen: cannot listen on"):
        listeners_for(GatewayConfig(gateway=Addresses(listen=taken)), Catalogue(), tmp_path / "cortex.toml")
