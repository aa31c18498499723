from __future__ import annotations

import msgspec
import pytest

from cortex import __version__
from cortex.cli.doctor.findings import Grade
from cortex.cli.doctor.nodes import Answers, ask_node, check_nodes, judge
from cortex.wire.node_api import Activation, DeviceInfo, Discovery, FailedModel, Health, ModelInfo, Version

from ..conftest import CannedGateway


def version(**changes: object) -> Version:
    known = {"package_version": __version__, "python": "3.11", "platform": "linux", "engines": ["llamacpp"]}
    return Version(**{**known, **changes})  # type: ignore[arg-type]


def discovery(**changes: object) -> Discovery:
    device = DeviceInfo(index=0, name="RTX 4090", kind="cuda", memory_total_bytes=24 << 30, vram_total_mb=24576)
    known = {"hostname": "h", "os": "Linux", "kernel": "6", "boot_id": "b", "version": __version__}
    return Discovery(**{**known, "devices": [device], "engines": ["llamacpp"], **changes})  # type: ignore[arg-type]


def health(**changes: object) -> Health:
    known = {"status": "ready", "boot_id": "b", "uptime_secs": 1.0, "readings_age_seconds": 0.5, "devices": []}
    return Health(**{**known, "activation": Activation(state="ready"), "models": [], **changes})  # type: ignore[arg-type]


def answers(**changes: object) -> Answers:
    return Answers(**{"version": version(), "discovery": discovery(), "health": health(), **changes})  # type: ignore[arg-type]


def test_a_node_that_is_well_says_what_it_has() -> None:
    [found] = judge("beast", answers())

    assert found.grade is Grade.WELL
    assert found.said == "RTX 4090 (24 GiB); llamacpp"


FAILED = Activation(state="degraded", failed=[FailedModel("m", "no such file")])
BROKEN = ModelInfo(id="m", engine="llamacpp", status="failed", error="died of signal 9")


@pytest.mark.parametrize(
    ("said", "grade", "words"),
    [
        (Answers(silent="Connection refused"), Grade.WRONG, "Connection refused"),
        (Answers(refused=401), Grade.WRONG, "token"),
        (Answers(refused=404), Grade.WRONG, "404"),
        (Answers(odd=["/version: not JSON"]), Grade.WRONG, "not JSON"),
        (answers(version=version(package_version="0.0.1")), Grade.WARNING, "0.0.1"),
        (answers(clock_ahead_seconds=-90.0), Grade.WARNING, "90 s behind"),
        (answers(clock_ahead_seconds=7.0), Grade.WARNING, "7 s ahead"),
        (answers(version=version(cache_free_bytes=1 << 30)), Grade.WARNING, "1.0 GiB left"),
        (answers(discovery=discovery(engines=[])), Grade.WRONG, "no engine"),
        (answers(discovery=discovery(devices=[])), Grade.WRONG, "no device"),
        (answers(discovery=discovery(warnings=["no driver"])), Grade.WARNING, "no driver"),
        (answers(health=health(readings_age_seconds=99.0)), Grade.WARNING, "99 s"),
        (answers(health=health(models=[BROKEN])), Grade.WRONG, "signal 9"),
        (answers(health=health(activation=FAILED)), Grade.WRONG, "no such file"),
    ],
)
def test_what_is_not_well_is_named_and_comes_with_a_remedy(said: Answers, grade: Grade, words: str) -> None:
    told = [finding for finding in judge("beast", said) if words in finding.said]

    assert [finding.grade for finding in told] == [grade]
    assert told[0].subject == "node beast"
    assert told[0].remedy


def test_a_clock_that_is_right_within_seconds_and_a_full_enough_disk_are_not_mentioned() -> None:
    said = answers(clock_ahead_seconds=1.5, version=version(cache_free_bytes=1 << 40))

    assert [finding.grade for finding in judge("beast", said)] == [Grade.WELL]


def test_a_node_is_asked_with_the_token_that_the_gateway_shows(gateway: CannedGateway) -> None:
    gateway.answers["/version"] = (200, msgspec.json.encode(version(unix_seconds=1.0)))
    gateway.answers["/discovery"] = (200, msgspec.json.encode(discovery()))
    gateway.answers["/health"] = (200, msgspec.json.encode(health()))

    found = ask_node(gateway.url, "a-token-of-16-chars")

    assert found.health is not None
    assert found.clock_ahead_seconds < -1_000_000
    assert set(gateway.shown) == {"Bearer a-token-of-16-chars"}


def test_another_program_in_a_nodes_place_is_found_out(gateway: CannedGateway) -> None:
    gateway.answers["/version"] = (200, b"<html>")

    assert [finding.grade for finding in check_nodes({"beast": gateway.url}, None)] == [Grade.WRONG]


def test_nodes_come_in_the_order_of_their_names_and_none_is_worth_a_word() -> None:
    nobody = "http://127.0.0.1:1"

    assert [found.subject for found in check_nodes({"b": nobody, "a": nobody}, None)] == ["node a", "node b"]
    assert check_nodes({}, None)[0].grade is Grade.WARNING
