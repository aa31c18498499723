"""A neuron as it runs: what it says, and to whom, once it was told to leave."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import httpx2
from anyio.lowlevel import checkpoint

from cortex.neuron.app import listeners_for
from cortex.neuron.config import Harness, Limits, Models, NeuronConfig, SimulatedDevice
from cortex.serving.run import serve

SLOW = {"engine": "simulated", "options": {"load_seconds": 0, "memory_mb": 100, "tokens_per_second": 20}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "#tokens 2000"}], "stream": True}


def test_a_neuron_that_was_told_to_leave_says_so_at_once_and_takes_nothing_new(tmp_path: Path) -> None:
    """The answer in progress goes on until its client leaves; the neuron leaves then too."""
    config = NeuronConfig(
        port=0,
        models=Models(cache=str(tmp_path)),
        simulated_devices=[SimulatedDevice("A", 4096)],
        harnesses=[Harness("simulated")],
        limits=Limits(drain_seconds=10),
    )
    listener = listeners_for(config)
    seen: list[Any] = []

    async def visit() -> None:
        async with httpx2.AsyncClient(base_url=f"http://{listener[0].address}", trust_env=False, timeout=10) as client:
            (await client.post("/models/load", json={"id": "m", **SLOW})).raise_for_status()
            async with client.stream("POST", "/v1/chat/completions", json=CHAT) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                os.kill(os.getpid(), signal.SIGTERM)
                while (health := (await client.get("/health")).json())["status"] != "draining":
                    await checkpoint()
                chat = await client.post("/v1/chat/completions", json=CHAT)
                load = await client.post("/models/load", json={"id": "n", **SLOW})
                seen.extend([health["models"][0]["in_flight"], chat, load])
                await anext(lines)

    async def scene() -> None:
        with anyio.fail_after(15):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(visit)
                await serve(listener, grace_seconds=config.limits.drain_seconds)

    anyio.run(scene)

    in_flight, chat, load = seen
    assert in_flight == 1
    for refused in (chat, load):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
