"""What the gateway counts, as Prometheus reads it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from cortex.core.metrics import DURATION_BUCKETS, SPEED_BUCKETS, TTFT_BUCKETS
from cortex.core.model_spec import ModelSpec
from cortex.fleet.work import Event
from cortex.gateway.app import CortexGateway
from cortex.gateway.catalogue import Catalogue
from cortex.gateway.config import GatewayConfig
from cortex.gateway.metrics.families import FAMILIES
from fake_fleet import Call, FakeFleet, Gateway, ask

pytestmark = pytest.mark.anyio

AT = {"model": "m", "node": "a"}


async def families(gateway: Gateway) -> dict[str, Any]:
    await gateway.idle()
    answer = await gateway.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        ("cortex_request_duration_seconds", DURATION_BUCKETS),
        ("cortex_time_to_first_token_seconds", TTFT_BUCKETS),
        ("cortex_tokens_per_second", SPEED_BUCKETS),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_times_and_speeds_are_histograms(
    fleet: FakeFleet, name: str, buckets: tuple[float, ...], stream: bool
) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(stream=stream))
    family = (await families(gateway))[name]
    bounds = [float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")]

    assert family.type == "histogram"
    assert bounds == [*buckets, float("inf")]
    assert await gateway.sample(f"{name}_count", **AT) == 1


async def test_an_answer_is_counted_with_the_figures_of_its_trailer(fleet: FakeFleet) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask(stream=True))
    await gateway.post(ask())

    assert await gateway.sample("cortex_requests_total", **AT) == 2
    assert await gateway.sample("cortex_prompt_tokens_total", **AT) == 14
    assert await gateway.sample("cortex_completion_tokens_total", **AT) == 6
    assert await gateway.sample("cortex_cached_prompt_tokens_total", **AT) == 4
    assert await gateway.sample("cortex_tokens_per_second_sum", **AT) == pytest.approx(60)
    assert await gateway.sample("cortex_time_to_first_token_seconds_sum", **AT) >= 0.05


async def test_an_error_is_counted_by_its_code(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    node.script(lambda call: call.refuse(429, "rate_limit_exceeded"))
    await gateway.post(ask())

    assert await gateway.sample("cortex_requests_total", **AT) == 1
    assert await gateway.sample("cortex_request_errors_total", **AT, code="rate_limit_exceeded") == 1
    assert await gateway.sample("cortex_client_disconnects_total", **AT) == 0


async def test_a_client_that_leaves_is_counted_as_such(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    node.script(Call.caller_left)
    client = await gateway.connect(ask())
    await node.call()
    client.hang_up()

    assert await gateway.sample("cortex_client_disconnects_total", **AT) == 1
    assert await gateway.sample("cortex_requests_total", **AT) == 1


async def test_our_own_crash_is_not_taken_for_a_client_that_left(
    fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.node()
    gateway = await fleet.gateway()

    async def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.cortex.inference._relay, "unary", crash)
    answer = await gateway.post(ask())
    await gateway.idle()
    fleet.logs[:] = [line for line in fleet.logs if line["event"] != "request_crashed"]

    assert answer.status_code == 500
    assert await gateway.sample("cortex_client_disconnects_total", **AT) == 0
    assert await gateway.sample("cortex_request_errors_total", **AT, code="internal_error") == 1


@pytest.mark.parametrize("nodes", [0, 1])
async def test_names_that_clients_make_up_are_counted_as_one(fleet: FakeFleet, nodes: int) -> None:
    """A label for each would let a client fill the memory."""
    for _ in range(nodes):
        await fleet.node()
    gateway = await fleet.gateway(ModelSpec(id="known"))
    await asyncio.gather(*(gateway.post(ask(f"made-up-{n}")) for n in range(5)))
    requests = (await families(gateway))["cortex_requests"]

    assert {sample.labels["model"] for sample in requests.samples} == {"unknown"}
    assert await gateway.sample("cortex_requests_total", model="unknown", node="-") == 5


async def test_the_fleet_is_shown_as_it_is_now(fleet: FakeFleet) -> None:
    node = await fleet.node()
    gateway = await fleet.gateway()
    seen = await families(gateway)
    node.models.clear()
    await gateway.cortex.poller.look("a")
    later = await families(gateway)

    assert [s.value for s in seen["cortex_node_healthy"].samples] == [1.0]
    assert [s.value for s in seen["cortex_device_memory_free_bytes"].samples] == [node.free_bytes]
    assert [s.labels for s in seen["cortex_model_in_flight"].samples] == [{"node": "a", "model": "m"}]
    assert later["cortex_model_in_flight"].samples == []


async def test_two_gateways_in_one_process_count_on_their_own(tmp_path: Path) -> None:
    first, second = (CortexGateway(GatewayConfig(), Catalogue(), tmp_path) for _ in range(2))
    first.metrics.decided(Event(1.0, "load_started", "unknown", "-", "asked for"))
    counted = [
        cortex.metrics.registry.get_sample_value("cortex_cold_starts_total", {"model": "unknown", "node": "-"})
        for cortex in (first, second)
    ]

    assert counted == [1, None]


async def test_what_is_refused_before_a_node_had_it_is_a_rejection(fleet: FakeFleet) -> None:
    gateway = await fleet.gateway(ModelSpec(id="known"))
    await gateway.post(ask("known"))

    assert await gateway.sample("cortex_model_rejections_total", model="known", node="-", reason="no_healthy_node") == 1


async def test_another_node_that_serves_is_a_failover_from_the_one_that_failed(fleet: FakeFleet) -> None:
    failing, other = await fleet.node("a"), await fleet.node("b")
    gateway = await fleet.gateway()
    for node in (failing, other):
        node.script(
            lambda call: (
                call.refuse(503, "engine_busy") if len(failing.asked()) + len(other.asked()) == 1 else call.answer()
            )
        )
    await gateway.post(ask())
    served = "a" if await gateway.sample("cortex_completion_tokens_total", model="m", node="a") else "b"
    failed = {"a": "b", "b": "a"}[served]

    assert await gateway.sample("cortex_retries_total", model="m", node=failed) == 1
    assert await gateway.sample("cortex_failovers_total", model="m", node=failed) == 1
    assert await gateway.sample("cortex_failovers_total", model="m", node=served) == 0


async def test_nothing_lingers_of_a_node_or_a_model_that_is_gone(fleet: FakeFleet) -> None:
    node = await fleet.node("a", m="ready", other="ready")
    gateway = await fleet.gateway()
    await gateway.post(ask())
    await gateway.post(ask("other"))
    node.models.pop("other")
    await gateway.cortex.poller.look("a")
    without_model = await exposition(gateway)
    gateway.cortex.poller.remove("a")
    without_node = await exposition(gateway)

    assert 'model="m"' in without_model
    assert 'model="other"' not in without_model
    assert 'node="a"' not in without_node


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("*/*", "text/plain"), ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text")],
)
async def test_both_official_parsers_read_all_of_it(fleet: FakeFleet, accept: str, kind: str) -> None:
    await fleet.node()
    gateway = await fleet.gateway()
    await gateway.post(ask())
    await gateway.idle()
    answer = await gateway.get("/metrics", accept=accept)
    parse = openmetrics if "openmetrics" in kind else text_string_to_metric_families
    found = {family.name: family for family in parse(answer.text)}

    assert answer.headers["content-type"].startswith(kind)
    assert {family.name for family in FAMILIES} == found.keys()
    assert {name: family.type for name, family in found.items()} == {family.name: family.kind for family in FAMILIES}


async def exposition(gateway: Gateway) -> str:
    await gateway.idle()
    return (await gateway.get("/metrics")).text
