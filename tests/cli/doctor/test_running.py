from __future__ import annotations

import json

import pytest

from cortex import __version__
from cortex.cli.doctor.findings import Grade
from cortex.cli.doctor.running import check_running, endpoint_of, health_of, judge_models

from ..conftest import CannedGateway


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1:31313", "http://127.0.0.1:31313"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("box:80", "http://box:80"),
    ],
)
def test_a_gateway_is_reached_from_its_own_machine(listen: str, endpoint: str) -> None:
    assert endpoint_of(listen) == endpoint


def test_nobody_there_has_no_health() -> None:
    assert health_of("http://127.0.0.1:1") is None


def test_models_that_nothing_can_serve_are_wrong_and_the_others_counted() -> None:
    found = list(judge_models({"data": [{"id": "a"}, {"id": "b", "reason": "needs 80 GiB"}]}))

    assert [finding.grade for finding in found] == [Grade.WRONG, Grade.WELL]
    assert "needs 80 GiB" in found[0].said
    assert found[1].said == "1 can be served"


def test_an_old_gateway_and_an_edit_that_is_not_in_effect_are_told(gateway: CannedGateway) -> None:
    gateway.answers["/v1/models"] = (200, json.dumps({"data": []}).encode())

    found = list(check_running(gateway.url, {"version": "0.0.1", "refused_edits": {"models.toml": "no such key"}}))

    assert [finding.grade for finding in found] == [Grade.WARNING, Grade.WRONG]


def test_a_gateway_that_keeps_its_models_to_itself_is_told(gateway: CannedGateway) -> None:
    gateway.answers["/v1/models"] = (401, b'{"error":{"message":"no key"}}')

    found = list(check_running(gateway.url, {"version": __version__}))

    assert "CORTEX_API_KEY" in found[-1].said
