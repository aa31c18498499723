#!/usr/bin/env python3
"""What a prefix cache saves of the time to the first token: a conversation cold, its next turn, and a turn later on.

All through a gateway and a neuron. The later turn comes when another conversation has taken the only slot in between:
with `cache_ram_mib` what was computed is taken back from the host's memory, without it is computed again.

    .venv/bin/python bench/prefix.py [--words 400] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import httpx2
from overhead import demo_model, fleet

CONTEXT = 4096


@dataclass
class Turn:
    """One answer: seconds to its first token, tokens of its prompt, those of them that were cached, and its text."""

    seconds: float
    prompt: int
    cached: int
    text: str


def ask(url: str, messages: list[dict[str, str]]) -> Turn:
    """Return what came of one streamed chat."""
    body = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    asked, first, text, usage = time.perf_counter(), 0.0, "", {}
    with httpx2.stream("POST", url + "/v1/chat/completions", json=body, timeout=600, trust_env=False) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if chunk["choices"] and (piece := chunk["choices"][0]["delta"].get("content")):
                first, text = first or time.perf_counter() - asked, text + piece
    return Turn(first, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], text)


def converse(url: str, name: str, words: int) -> dict[str, Turn]:
    """Return the turns of a conversation that is called *name*."""
    messages = [{"role": "system", "content": f"This is {name}. " + "You know the sea. " * (words // 4)}]
    messages.append({"role": "user", "content": "What is a ship?"})
    cold = ask(url, messages)
    messages += [{"role": "assistant", "content": cold.text}, {"role": "user", "content": "And a boat?"}]
    warm = ask(url, messages)
    ask(url, [{"role": "user", "content": f"Not {name}: " + "something else " * (words // 2)}])
    messages += [{"role": "assistant", "content": warm.text}, {"role": "user", "content": "And a raft?"}]
    return {"cold": cold, "next turn": warm, "after another": ask(url, messages)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for mib in (0, 64):
        with fleet(demo_model(), f"slots = 1, cache_ram_mib = {mib}", CONTEXT) as (_, port):
            url = f"http://127.0.0.1:{port}"
            ask(url, [{"role": "user", "content": "Hello"}])  # loads it
            rounds = [converse(url, f"{mib}-{at}", arguments.words) for at in range(arguments.rounds)]
            for name in rounds[0]:
                turns = [turns[name] for turns in rounds]
                seconds = statistics.median(turn.seconds for turn in turns)
                told = f"{turns[0].prompt:5} tokens, {turns[0].cached:5} of them cached"
                print(f"cache_ram_mib {mib:3}  {name:14} {told}   first token after {seconds:6.3f} s", flush=True)


if __name__ == "__main__":
    main()
