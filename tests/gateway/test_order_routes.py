"""Orders over HTTP: told before they are done, done as they were told, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cortex.core.errors import BadRequest, ConfigError
from cortex.core.model_spec import ModelSpec
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.pins import FILE, Pins
from fake_fleet import GIB, Call, FakeFleet, Gateway, ask, until

pytestmark = pytest.mark.anyio


async def order(gateway: Gateway, path: str, **fields: Any) -> httpx2.Response:
    return await gateway.post(json.dumps(fields).encode(), path)


async def estimate(call: Call) -> None:
    said = {"model_id": call.json()["id"], "devices": [0], "bytes_per_device": {0: 6 * GIB}, "basis": "measured"}
    await call.respond(200, said)


async def test_a_load_is_told_and_then_done(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(estimate, "/models/estimate")
    gateway = await fleet.gateway(ModelSpec(id="cold", aliases=("chilly",)))
    told = (await order(gateway, "/fleet/load", model="chilly", dry_run=True)).json()

    assert (told["done"], told["model"], told["plan"]["node"], told["plan"]["evicts"]) == (False, "cold", "a", [])
    assert told["plan"]["bytes_by_device"] == {"0": 6 * GIB}
    assert node.asked("/models/load") == []
    done = (await order(gateway, "/fleet/load", model="cold", evicts=[])).json()
    await until(lambda: "cold" in gateway.cortex.poller.view.models)
    assert (done["done"], done["plan"]) == (True, told["plan"])


async def test_a_load_that_would_make_others_go_than_was_told_is_refused(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.free_bytes = 2 * GIB
    health = node.health()
    health["models"][0].update(bytes_by_device={0: 6 * GIB}, idle_seconds=100.0)
    node.script(lambda call: call.respond(200, health), "/health")
    node.script(estimate, "/models/estimate")
    gateway = await fleet.gateway(ModelSpec(id="cold"))
    answer = await order(gateway, "/fleet/load", model="cold", evicts=[])

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "plan_changed")
    assert node.asked("/models/unload") == []
    assert (await order(gateway, "/fleet/load", model="cold", evicts=["m"])).json()["plan"]["evicts"] == ["m"]


async def test_a_load_of_what_nobody_knows_or_has_room_for_is_refused(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="vast", engine="vllm"))

    for fields, status, code in (
        ({"model": "vost"}, 404, "model_not_found"),
        ({"model": "vast", "node": "b"}, 404, "node_not_found"),
        ({"model": "vast"}, 409, "no_place"),
        ({"model": "vast", "force": True}, 400, "invalid_type"),
    ):
        answer = await order(gateway, "/fleet/load", **fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_an_unload_is_told_and_then_done(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="m", min_resident=0))
    told = (await order(gateway, "/fleet/unload", model="m", node="a", dry_run=True)).json()

    assert (told["done"], told["under_way"], told["ready_elsewhere"]) == (False, 0, [])
    assert "the next request waits" in told["cautions"][0]
    assert node.asked("/models/unload") == []
    assert (await order(gateway, "/fleet/unload", model="m", node="a")).json()["done"]
    await until(lambda: not gateway.cortex.poller.view.models)


async def test_a_drain_is_told_and_nothing_is_drained_by_that(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="m"))
    told = (await gateway.get("/fleet/nodes/a/drain")).json()

    assert [(move["model"], move["to"]) for move in told["moves"]] == [("m", None)]
    assert not gateway.cortex.poller.view.node("a").drained


async def test_a_pinned_model_stays_pinned_over_edits_and_restarts(fleet: FakeFleet, tmp_path: Path) -> None:
    await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="m", aliases=("em",)))
    answer = await order(gateway, "/fleet/pin", model="em")
    cortex = gateway.cortex

    assert answer.json() == {"model": "m", "pinned": True}
    assert cortex.catalogue.specs["m"].pinned
    assert cortex.steward.reconciler.situation(0.0).catalogue["m"].pinned
    cortex._catalogue_changed(Catalogue([ModelSpec(id="m", priority=7)]))
    assert (cortex.catalogue.specs["m"].pinned, cortex.catalogue.specs["m"].priority) == (True, 7)
    await order(gateway, "/fleet/pin", model="m", pinned=False)
    assert not cortex.catalogue.specs["m"].pinned
    assert (await gateway.post(ask())).status_code == 200


async def test_what_the_catalogue_pins_is_not_unpinned_here(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway(ModelSpec(id="m", pinned=True))
    answer = await order(gateway, "/fleet/pin", model="m", pinned=False)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "pinned_in_catalogue")


def test_pins_are_kept_in_a_file_and_a_broken_one_stops_the_start(tmp_path: Path) -> None:
    spec = ModelSpec(id="m")
    Pins(tmp_path).pin(spec)
    again = Pins(tmp_path)

    assert again.models == {"m"}
    again.unpin(spec)
    assert Pins(tmp_path).models == frozenset()
    with pytest.raises(BadRequest):
        again.unpin(ModelSpec(id="m", pinned=True))
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="delete it to forget which models were pinned"):
        Pins(tmp_path)


def test_a_catalogue_without_pins_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    pins, catalogue = Pins(tmp_path), Catalogue([ModelSpec(id="m")])
    pins.pin(ModelSpec(id="other"))

    assert pins.applied(catalogue) is catalogue
