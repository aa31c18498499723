"""The token at the running neuron, and its names."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import httpx2
import pytest
from structlog.testing import capture_logs

from cortex.core.errors import ConfigError
from cortex.neuron.app import listeners_for
from cortex.neuron.config import Harness, Models, NeuronConfig, SimulatedDevice, load_config, node_token
from cortex.serving.run import serve

TOKEN = "the-token-of-all-nodes"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def answers(config: NeuronConfig, *headers: dict[str, str]) -> list[list[int]]:
    """Return the statuses of several routes for each of the *headers*, from a neuron that runs for as long."""
    statuses: list[list[int]] = []
    listener = listeners_for(config)

    async def visit() -> None:
        port = listener[0].socket.getsockname()[1]
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            for shown in headers:
                got = [await client.get(path, headers=shown) for path in ("/health", "/discovery", "/metrics", "/nope")]
                got.append(await client.post("/v1/chat/completions", json=CHAT, headers=shown))
                statuses.append([answer.status_code for answer in got])
                assert all("error" in answer.json() for answer in got if answer.status_code >= 400)
        os.kill(os.getpid(), signal.SIGTERM)

    async def scene() -> None:
        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(visit)
                await serve(listener, grace_seconds=5)

    anyio.run(scene)
    return statuses


def config(tmp_path: Path, **changes: object) -> NeuronConfig:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return NeuronConfig(
        port=0,
        models=Models(cache=str(tmp_path)),
        simulated_devices=[SimulatedDevice("A", 4096)],
        harnesses=[Harness("simulated")],
        **changes,  # type: ignore[arg-type]
    )


def test_a_neuron_with_a_token_answers_only_who_shows_it(tmp_path: Path) -> None:
    secured = config(tmp_path, token_file=str(tmp_path / "token"), host="0.0.0.0")
    with capture_logs() as logs:
        without, wrong, right = answers(
            secured, {}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {TOKEN}"}
        )

    assert without == wrong == [401] * 5
    assert right == [200, 200, 200, 404, 404]
    assert TOKEN not in repr(logs)
    assert "neuron_is_open" not in [line["event"] for line in logs]


def test_a_neuron_that_is_open_to_others_says_so_and_refuses_pages(tmp_path: Path) -> None:
    with capture_logs() as logs:
        plain, rebound, page = answers(
            config(tmp_path, host="0.0.0.0"), {}, {"host": "evil.example"}, {"origin": "https://evil.example"}
        )

    assert plain == [200, 200, 200, 404, 404]
    assert rebound == page == [403] * 5
    assert "neuron_is_open" in [line["event"] for line in logs]


def test_the_token_lies_where_the_configuration_says_beside_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "neuron.toml").write_text('token_file = "token"\n')

    assert node_token(load_config(tmp_path / "neuron.toml", {})) == TOKEN
    assert node_token(NeuronConfig()) is None


def test_a_token_that_can_be_guessed_stops_the_start_and_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")

    with pytest.raises(ConfigError, match="token_file: expected at least 16") as caught:
        listeners_for(NeuronConfig(port=0, token_file=str(tmp_path / "token")))
    assert "hunter2" not in str(caught.value)
