from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cortex.cli.main import cortex

from .conftest import CannedGateway

STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)
CHAT = "/v1/chat/completions"


def bench(gateway: CannedGateway, *options: str) -> Result:
    return CliRunner().invoke(cortex, ["bench", gateway.url, "qwen3", "--requests", "3", *options])


def test_each_level_is_asked_after_a_first_request_and_printed(gateway: CannedGateway) -> None:
    gateway.answers[CHAT] = (200, STREAM)

    done = bench(gateway, "--streams", "1,2", "--key", "sk-1")

    assert done.exit_code == 0, done.output
    assert len(gateway.posted) == 1 + 3 + 3
    assert set(gateway.shown) == {"Bearer sk-1"}
    assert [line.split()[:3] for line in done.stdout.splitlines() if line.strip()[:1].isdigit()] == [
        ["1", "3", "0"],
        ["2", "3", "0"],
    ]


def test_the_request_is_what_was_ordered(gateway: CannedGateway) -> None:
    gateway.answers[CHAT] = (200, STREAM)

    bench(gateway, "--streams", "1", "--max-tokens", "7")

    body = json.loads(gateway.posted[0])
    assert (body["model"], body["max_tokens"], body["stream"], body["temperature"]) == ("qwen3", 7, True, 0)


def test_chart_and_figures_are_written(gateway: CannedGateway, tmp_path: Path) -> None:
    gateway.answers[CHAT] = (200, STREAM)

    done = bench(gateway, "--streams", "1", "--chart", str(tmp_path / "c.svg"), "--out", str(tmp_path / "c.json"))

    assert done.exit_code == 0, done.output
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "c.json").read_text())["levels"][0]["requests"] == 3


def test_a_file_that_cannot_be_written_is_found_out_before_the_test(gateway: CannedGateway, tmp_path: Path) -> None:
    done = bench(gateway, "--out", str(tmp_path / "none" / "c.json"))

    assert done.exit_code == 2
    assert "No such file" in done.output
    assert gateway.posted == []


def test_a_first_request_that_fails_ends_the_test_with_the_servers_word(gateway: CannedGateway) -> None:
    gateway.answers[CHAT] = (404, b'{"error":{"message":"no model qwen3","type":"invalid_request_error"}}')

    done = bench(gateway)

    assert done.exit_code == 1
    assert "the first request failed: HTTP 404: no model qwen3" in done.output


def test_requests_that_fail_later_are_counted_and_make_the_status_1(gateway: CannedGateway) -> None:
    gateway.answers[CHAT] = [(200, STREAM), (429, b'{"error":{"message":"busy"}}')]

    done = bench(gateway, "--streams", "1")

    assert done.exit_code == 1
    assert "3 × HTTP 429: busy" in done.output


@pytest.mark.parametrize("streams", ["", "a", "0", "1,,2", "99999"])
def test_numbers_of_streams_are_checked(gateway: CannedGateway, streams: str) -> None:
    assert bench(gateway, "--streams", streams).exit_code == 2
