"""A replica dies while it speaks, and the client's stream goes on: real nodes, a real model, cut at many points."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from harness import Daemon, Fleet, engine_pids, until

TOKENS = 48
GREEDY = {"temperature": 0}
CONTENT = b'"content":"'
QUESTION: Any = [{"role": "user", "content": "Tell me about the history of bridges in Europe."}]


class Cutter:
    """Stands before a node; when *armed*, ends the next answer after so many of its chunks, and passes all else.

    Cutters share *armed*, a list of one number or none, so that whichever node answers first is cut off, once.
    """

    def __init__(self, node: Daemon, armed: list[int]) -> None:
        self._node, self._armed, self.port = node, armed, 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = await asyncio.open_connection("127.0.0.1", self._node.port)
        asks = asyncio.ensure_future(self._pass_on(reader, theirs))
        try:
            with suppress(asyncio.CancelledError):
                await self._pass_on(ours, writer, cuts=True)
        finally:
            asks.cancel()
            writer.close()
            theirs.close()

    async def _pass_on(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, cuts: bool = False) -> None:
        seen = b""
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                seen = data if data.startswith(b"HTTP/1.1") else seen + data
                if self._armed and cuts and seen.count(CONTENT) > self._armed[0]:
                    kept = CONTENT.join(seen.split(CONTENT)[: self._armed[0] + 1]).rpartition(b"\n\n")[0] + b"\n\n"
                    to.write(kept[len(seen) - len(data) :])
                    await to.drain()
                    self._armed.clear()
                    return
                to.write(data)
                await to.drain()
            to.write_eof()


@pytest.fixture(scope="module")
def armed() -> list[int]:
    return []


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, demo_gguf: Path, armed: list[int]) -> Iterator[Daemon]:
    """Two replicas of a real model on two nodes, each behind a cutter."""
    cutters = {name: Cutter(fleet.neuron(name), armed) for name in ("a", "b")}
    models = f"""
    [[models]]
    id = "smol"
    source = "{demo_gguf}"
    context = 1024
    min_resident = 2
    max_replicas = 2
    options = {{ threads = 1 }}
    """
    gateway = fleet.gateway(models, {name: cutter.port for name, cutter in cutters.items()})
    until("both replicas are ready", lambda: len(ready(gateway)) == 2, 60)
    yield gateway
    for cutter in cutters.values():
        cutter.close()


def ready(gateway: Daemon) -> list[str]:
    locations = gateway.get("/v1/models/smol")["locations"]
    return [at["node"] for at in locations if at["status"] == "loaded"]


def client(gateway: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0, timeout=60)


def chat(gateway: Daemon, **fields: Any) -> tuple[str, Any]:
    """Return a greedy answer as the official SDK reads it, and its usage."""
    stream = client(gateway).chat.completions.create(
        model="smol",
        messages=QUESTION,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        **fields,
    )
    text, usage, ids = "", None, set()
    for chunk in stream:
        ids.add(chunk.id)
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert len(ids) == 1
    return text, usage


@pytest.fixture(scope="module")
def undisturbed(gateway: Daemon) -> tuple[str, Any]:
    return chat(gateway)


@pytest.mark.parametrize("cut", range(1, TOKENS, 5))
def test_wherever_it_is_cut_the_text_is_that_of_an_undisturbed_answer(
    gateway: Daemon, armed: list[int], undisturbed: tuple[str, Any], cut: int
) -> None:
    armed[:] = [cut]
    text, usage = chat(gateway)

    assert armed == []
    assert text == undisturbed[0]
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        undisturbed[1].prompt_tokens,
        undisturbed[1].completion_tokens,
    )


def test_an_anthropic_client_reads_one_message(gateway: Daemon, armed: list[int], undisturbed: tuple[str, Any]) -> None:
    claude = anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=60)
    armed[:] = [9]
    with claude.messages.stream(model="smol", messages=QUESTION, max_tokens=TOKENS, extra_body=GREEDY) as stream:
        message = stream.get_final_message()

    assert armed == []
    assert "".join(block.text for block in message.content if block.type == "text") == undisturbed[0]
    assert message.usage.output_tokens == undisturbed[1].completion_tokens


def test_a_client_that_forbids_it_gets_an_error_and_no_end(gateway: Daemon, armed: list[int]) -> None:
    armed[:] = [5]
    body = {"model": "smol", "messages": QUESTION, "max_tokens": TOKENS, "stream": True, **GREEDY}
    answer = httpx2.post(
        gateway.url + "/v1/chat/completions",
        json=body,
        headers={"x-cortex-continue": "never"},
        timeout=60,
        trust_env=False,
    )

    assert b'data: {"error"' in answer.content
    assert b"[DONE]" not in answer.content


def test_a_killed_engine_is_gone_on_with_and_the_log_says_so(
    fleet: Fleet, gateway: Daemon, undisturbed: tuple[str, Any]
) -> None:
    nodes = [fleet.daemons[name] for name in ("a", "b")]
    stream = client(gateway).chat.completions.create(
        model="smol",
        messages=QUESTION,
        max_tokens=TOKENS,
        temperature=0,
        stream=True,
        extra_headers={"x-request-id": "killed-1"},
    )
    text = ""
    for count, chunk in enumerate(stream):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        if count == 2:
            speaking = next(node for node in nodes if node.get("/models")[0]["in_flight"])
            os.kill(engine_pids(speaking)[0], signal.SIGKILL)

    assert text == undisturbed[0]
    last = gateway.told("request_finished", request="killed-1")
    assert last["status"] == 200
    assert last["continued"] >= 1  # twice where the last word came out otherwise, and was then left as it was
    assert gateway.events("answer_goes_on")[-1]["said"] > 0
