"""What the gateway believes of its nodes, from what they answer, and from what they do not."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import __version__
from cortex.core.errors import UpstreamFailed
from cortex.gateway.config import Limits, NeuronAddress
from cortex.gateway.control import Control
from cortex.gateway.poller import PARTS, Poller, next_turn, phase_of
from cortex.gateway.upstream import Address, Pool
from fake_fleet import Call, FakeFleet, FakeNode, soon, until

pytestmark = pytest.mark.anyio


def address_of(node: FakeNode, name: str | None = None) -> NeuronAddress:
    return NeuronAddress(name=name or node.name, endpoint=f"http://127.0.0.1:{node.port}")


class Senses:
    """A poller of fake nodes, and what it called back; it looks when told, and by itself while `running`."""

    def __init__(self, nodes: list[FakeNode], **limits: float) -> None:
        self.control = Control(Pool(1.0))
        self.lost: list[Address] = []
        self.changes: list[tuple[str, Any]] = []
        self.now = 1000.0
        bounds = {"poll_seconds": 60.0, "poll_timeout_seconds": 1.0, **limits}
        self.poller = Poller(
            [address_of(node) for node in nodes],
            Limits(**bounds),  # type: ignore[arg-type]
            self.control,
            on_lost=self.lost.append,
            on_change=self.changed,
            clock=lambda: self.now,
        )

    def changed(self, name: str) -> None:
        self.changes.append((name, self.poller.view.by_name.get(name)))

    def node(self, name: str = "a") -> Any:
        return self.poller.view.node(name)

    async def look(self, name: str = "a") -> Any:
        await soon(self.poller.look(name))
        return self.node(name)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.poller.run)
            yield
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def watching(*nodes: FakeNode, **limits: float) -> AsyncGenerator[Senses, None]:
    """Yield the senses of a gateway that has looked at *nodes* once."""
    senses = Senses(list(nodes), **limits)
    await senses.poller.first_round(1.0)
    senses.changes.clear()
    yield senses
    senses.control.close()


async def silent(call: Call) -> None:
    call.hang_up()


async def test_a_node_is_seen_as_it_describes_itself(fleet: FakeFleet) -> None:
    node = await fleet.node("a", m="ready", n="loading")
    async with watching(node) as senses:
        view = senses.node()

    assert (view.healthy, view.reason, view.boot_id, view.engines) == (True, "", "boot-1", ("llamacpp",))
    assert (view.version, view.seen_at) == ("0", 1000.0)
    assert [(room.index, room.kind, room.free_bytes) for room in view.rooms] == [(0, "cpu", node.free_bytes)]
    assert [(replica.model, replica.state) for replica in view.replicas] == [("m", "ready"), ("n", "loading")]


async def test_before_its_first_answer_a_node_is_not_healthy_and_says_why(fleet: FakeFleet) -> None:
    view = Senses([await fleet.node()]).node()

    assert (view.healthy, view.reason) == (False, "not asked yet")


async def test_three_misses_in_a_row_make_a_node_unhealthy_and_one_answer_makes_it_healthy(fleet: FakeFleet) -> None:
    node = await fleet.node()
    healthy, answer = [], node.scripts["/health"]
    async with watching(node) as senses:
        for script in (silent, silent, answer, silent, silent, silent, silent, answer):
            node.script(script, "/health")
            healthy.append((await senses.look()).healthy)

    assert healthy == [True, True, True, True, True, False, False, True]
    assert [(line["misses"], line["announced"]) for line in fleet.events("node_lost")] == [(3, False)]
    assert senses.lost == [node.address]


async def test_a_node_that_never_answered_is_not_lost(fleet: FakeFleet) -> None:
    node = await fleet.node()
    await node.stop()
    async with watching(node, misses=1) as senses:
        view = await senses.look()

    assert "Connection refused" in view.reason
    assert (senses.lost, fleet.events("node_lost")) == ([], [])


async def test_a_limit_that_was_lowered_meanwhile_holds_for_misses_already_counted(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=5) as senses:
        node.script(silent, "/health")
        for _ in range(3):
            await senses.look()
        senses.poller.limits = Limits(misses=2)
        await senses.look()

    assert senses.lost == [node.address]


async def test_a_call_that_waits_for_a_node_taken_for_dead_fails_at_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=1) as senses:
        node.script(Call.caller_left, "/models/load")
        load = asyncio.ensure_future(senses.control.post(node.address, "/models/load", b"{}", None))
        await node.call("/models/load")
        node.script(silent, "/health")
        await senses.look()

        with pytest.raises(UpstreamFailed):
            await soon(load)


async def test_a_lost_node_has_nothing_and_is_remembered_by_what_it_was(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=1) as senses:
        await node.stop()
        senses.now = 1007.0
        view = await senses.look()

    assert (view.rooms, view.replicas) == ((), ())
    assert (view.boot_id, view.seen_at) == ("boot-1", 1000.0)
    assert senses.poller.view.replicas_of("m") == ()


async def test_a_node_that_is_silent_counts_as_one_that_misses(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=1, poll_timeout_seconds=0.05) as senses:
        node.script(Call.caller_left, "/health")
        view = await senses.look()

    assert not view.healthy
    assert view.reason == "does not answer: /health was not answered within 0.05 s"


@pytest.mark.parametrize("path", ["/health", "/discovery"])
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b"null", b'{"status":"\xff"}', b'{"x":' + b"[" * 100_000, b"\x1f\x8b\x08", b"1e999"],
    ids=["empty", "html", "list", "keys", "null", "utf8", "deep", "binary", "number"],
)
async def test_nonsense_is_a_miss_and_never_the_end_of_the_poller(fleet: FakeFleet, body: bytes, path: str) -> None:
    node = await fleet.node()
    scripts = dict(node.scripts)
    node.script(lambda call: call.respond(200, body), path)
    async with watching(node, misses=1, poll_seconds=0.01) as senses, senses.running():
        await until(lambda: len(node.asked(path)) > 2)

        assert not senses.node().healthy
        node.scripts = scripts
        await until(lambda: senses.node().healthy)


@pytest.mark.parametrize("status", [204, 302, 401, 404, 500])
async def test_a_status_that_is_not_200_is_a_miss(fleet: FakeFleet, status: int) -> None:
    node = await fleet.node()
    async with watching(node, misses=1) as senses:
        node.script(lambda call: call.respond(status, b"", location="/x"), "/health")

        assert not (await senses.look()).healthy


async def test_keys_that_are_not_known_are_no_reason_to_distrust_a_node(fleet: FakeFleet) -> None:
    node = await fleet.node()

    def newer(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{key: newer(inner) for key, inner in value.items()}, "from_the_future": {"x": [1, None]}}
        return [newer(inner) for inner in value] if isinstance(value, list) else value

    node.script(lambda call: call.respond(200, newer(node.health())), "/health")
    node.script(lambda call: call.respond(200, newer(node.discovery())), "/discovery")
    async with watching(node) as senses:
        assert senses.node().healthy


async def test_a_silent_node_delays_no_other(fleet: FakeFleet) -> None:
    slow, quick = await fleet.node("slow"), await fleet.node("quick")
    async with watching(slow, quick, poll_seconds=0.01, poll_timeout_seconds=5) as senses, senses.running():
        slow.script(Call.caller_left, "/health")
        await until(lambda: slow.asked("/health")[1:])
        asked = len(quick.asked("/health"))
        await until(lambda: len(quick.asked("/health")) > asked + 5)

        assert len(slow.asked("/health")) == 2
        assert senses.node("quick").healthy


async def test_a_node_that_is_silent_from_the_start_delays_the_start_by_a_bound(fleet: FakeFleet) -> None:
    slow, quick = await fleet.node("slow"), await fleet.node("quick")
    slow.script(Call.caller_left, "/health")
    senses = Senses([slow, quick], poll_timeout_seconds=5)
    with anyio.fail_after(1):
        await senses.poller.first_round(0.05)

    assert senses.node("quick").healthy
    assert senses.node("slow").reason == "not asked yet"


async def test_a_node_that_was_started_again_is_discovered_again(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node) as senses:
        await senses.look()
        assert len(node.asked("/discovery")) == 1

        node.boot_id = "boot-2"
        node.script(lambda call: call.respond(200, {**node.discovery(), "engines": ["llamacpp", "vllm"]}), "/discovery")
        view = await senses.look()

    assert (view.boot_id, view.engines) == ("boot-2", ("llamacpp", "vllm"))
    assert [line["boot_id"] for line in fleet.events("node_restarted")] == ["boot-2"]


async def test_a_node_that_was_away_while_it_restarted_is_known_to_have(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=1) as senses:
        await node.stop()
        await senses.look()
        node.boot_id = "boot-2"
        await node.start()
        await senses.look()

    assert len(fleet.events("node_restarted")) == 1


async def test_a_version_that_differs_is_told_once(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node) as senses:
        for node.boot_id in ("boot-2", "boot-3"):
            await senses.look()

    told = [(line["version"], line["ours"]) for line in fleet.events("node_version_differs")]
    assert told == [("0", __version__)]


async def test_a_version_that_is_ours_is_not_worth_a_word(fleet: FakeFleet) -> None:
    node = await fleet.node()
    node.script(lambda call: call.respond(200, {**node.discovery(), "version": __version__}), "/discovery")
    async with watching(node):
        assert fleet.events("node_version_differs") == []


async def test_a_draining_node_is_leaving_until_it_is_gone_and_that_was_announced(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=2) as senses:
        node.status = "draining"
        draining = await senses.look()
        await node.stop()
        missed, lost = await senses.look(), await senses.look()

    assert (draining.healthy, draining.leaving, draining.reason) == (False, True, "is shutting down")
    assert missed == draining, "one miss is not yet the end of what it still does"
    assert (lost.healthy, lost.leaving, lost.replicas) == (False, True, ())
    assert (senses.lost, fleet.events("node_lost")[0]["announced"]) == ([node.address], True)


async def test_a_late_answer_does_not_overwrite_a_newer_one(fleet: FakeFleet) -> None:
    """Polls overlap: the one that follows a load must not be undone by one that was asked before it."""
    node = await fleet.node()
    old, late = json.dumps({**node.health(), "models": []}).encode(), asyncio.Event()
    answer = node.scripts["/health"]

    async def answer_late(call: Call) -> None:
        await late.wait()
        await call.respond(200, old)

    async with watching(node) as senses:
        node.script(answer_late, "/health")
        first = asyncio.ensure_future(senses.poller.look("a"))
        await node.call("/health", 2)
        node.script(answer, "/health")
        await senses.look()
        late.set()
        await soon(first)

        assert [replica.model for replica in senses.node().replicas] == ["m"]


async def test_questions_that_fail_together_are_one_miss(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node) as senses:
        node.script(silent, "/health")
        await asyncio.gather(*(senses.poller.look("a") for _ in range(5)))

        assert senses.node().healthy


async def test_a_nudge_asks_without_a_wait_and_asks_nobody_else(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    async with watching(a, b) as senses, senses.running():
        senses.poller.nudge("a")
        await a.call("/health", 2)
        senses.poller.nudge("a")
        await a.call("/health", 3)

        assert len(b.asked("/health")) == 1


async def test_a_node_may_be_added_while_the_poller_runs_and_is_asked_at_once(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    async with watching(a) as senses, senses.running():
        senses.poller.add(address_of(b), drained=True)
        assert senses.changes == [("b", senses.node("b"))]

        await until(lambda: senses.node("b").healthy)
        assert senses.node("b").drained
        assert [node.name for node in senses.poller.view.nodes] == ["a", "b"]


async def test_a_node_that_is_removed_is_forgotten_and_never_asked_again(fleet: FakeFleet) -> None:
    a, b = await fleet.node("a"), await fleet.node("b")
    async with watching(a, b, poll_seconds=0.01) as senses, senses.running():
        await b.call("/health", 3)
        senses.poller.remove("b")
        asked = len(b.asked("/health"))
        assert senses.changes[-1] == ("b", None)

        seen = len(a.asked("/health"))
        await until(lambda: len(a.asked("/health")) > seen + 5)
        assert len(b.asked("/health")) - asked <= 1, "one question may have been under way"
        assert [node.name for node in senses.poller.view.nodes] == ["a"]
        assert senses.poller.view.replicas_of("m")[0].node == "a"
        await senses.poller.look("b")
        senses.poller.nudge("b")
        senses.poller.remove("b")


async def test_what_a_removed_node_answers_late_is_not_believed_of_its_successor(fleet: FakeFleet) -> None:
    old, new = await fleet.node("a", old="ready"), await fleet.node("a", new="ready")
    answer = old.scripts["/health"]
    going = asyncio.Event()

    async def answer_late(call: Call) -> None:
        await going.wait()
        await answer(call)

    async with watching(old) as senses:
        old.script(answer_late, "/health")
        late = asyncio.ensure_future(senses.poller.look("a"))
        await old.call("/health", 2)
        senses.poller.add(address_of(new))
        await senses.look()
        going.set()
        await soon(late)

        assert senses.poller.address("a") == new.address
        assert [replica.model for replica in senses.node().replicas] == ["new"]


async def test_the_nodes_there_are_may_be_told_all_at_once(fleet: FakeFleet) -> None:
    a, b, c = await fleet.node("a"), await fleet.node("b"), await fleet.node("c")
    async with watching(a, b) as senses:
        senses.poller.follow([address_of(b), address_of(c)], {"b"})

        assert [(node.name, node.drained) for node in senses.poller.view.nodes] == [("b", True), ("c", False)]
        assert senses.node("b").healthy, "it was not replaced"
        assert [name for name, _ in senses.changes] == ["a", "b", "c"]


async def test_adding_a_node_that_is_there_changes_nothing(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node) as senses:
        senses.poller.set_drained("a", True)
        before = senses.poller.view
        senses.poller.add(address_of(node))

        assert senses.poller.view is before


async def test_a_drained_node_is_drained_through_answers_losses_and_restarts(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node, misses=1) as senses:
        senses.poller.set_drained("a", True)
        assert senses.changes == [("a", senses.node())]

        marks = [(await senses.look()).usable]
        await node.stop()
        marks.append((await senses.look()).drained)
        node.boot_id = "boot-2"
        await node.start()
        back = await senses.look()
        marks.append(back.drained)
        senses.poller.set_drained("a", False)

    assert marks == [False, True, True]
    assert back.healthy
    assert senses.node().usable


async def test_whoever_listens_hears_of_changes_and_sees_them_in_the_view(fleet: FakeFleet) -> None:
    node = await fleet.node()
    async with watching(node) as senses:
        senses.now += 2
        await senses.look()
        assert (senses.changes, senses.node().seen_at) == ([], 1002.0)

        node.models["n"] = "loading"
        await senses.look()
        [(name, view)] = senses.changes

    assert (name, [replica.model for replica in view.replicas]) == ("a", ["m", "n"])


async def test_last_use_is_told_in_the_gateway_s_time(fleet: FakeFleet) -> None:
    node = await fleet.node()
    models = [{"id": "m", "engine": "llamacpp", "status": "ready", "idle_seconds": 30.0}]
    node.script(lambda call: call.respond(200, {**node.health(), "models": models}), "/health")
    async with watching(node) as senses:
        assert senses.node().replicas[0].last_used == 970.0


SECONDS = st.floats(min_value=0, max_value=1e6)
INTERVALS = st.floats(min_value=0.01, max_value=600)
PHASES = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(now=SECONDS, ago=SECONDS, interval=INTERVALS, phase=PHASES)
def test_a_turn_is_never_past_nor_too_soon_nor_left_out(now: float, ago: float, interval: float, phase: float) -> None:
    began = now - ago
    turn = next_turn(now, began, interval, phase)
    earliest = max(now, began + interval / 2)

    assert earliest - 1e-6 <= turn <= earliest + interval + 1e-6


@given(start=SECONDS, interval=INTERVALS, phase=PHASES, early=st.floats(min_value=0, max_value=0.002))
def test_turns_are_an_interval_apart_though_timers_are_early(
    start: float, interval: float, phase: float, early: float
) -> None:
    turns = [next_turn(start, -1e9, interval, phase)]
    for _ in range(5):
        began = turns[-1] - early
        turns.append(next_turn(began, began, interval, phase))

    assert [b - a for a, b in pairwise(turns)] == pytest.approx([interval] * 5, rel=1e-4)


@pytest.mark.parametrize("count", [1, 10, 100, 1000, 5000])
def test_the_turns_of_many_nodes_lie_evenly_in_the_interval(count: int) -> None:
    together = Counter(phase_of(number) for number in range(count))

    assert max(together.values()) <= count / PARTS + 2
    assert all(0 <= phase < 1 for phase in together)
