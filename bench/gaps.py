#!/usr/bin/env python3
"""How long a stream waits for its next token while somebody else's long prompt is computed, by the prefill step.

.venv/bin/python bench/gaps.py [--steps 32,64,128,512] [--words 300]
"""

from __future__ import annotations

import argparse
import threading
from itertools import pairwise

from overhead import CONTEXT, STORY, ask_one, chat, demo_model, fleet, streamed


def gaps_beside(port: int, words: int) -> tuple[float, float, float]:
    """Return a stream's longest wait alone and beside a long prompt, and how long that prompt took, in seconds."""
    stamps: list[float] = []
    under_way, over = threading.Event(), threading.Event()

    def follow() -> None:
        for stamp, _ in streamed(port, chat(STORY, 512)):
            stamps.append(stamp)
            if len(stamps) == 24:
                under_way.set()
            if over.is_set():
                return

    stream = threading.Thread(target=follow)
    stream.start()
    under_way.wait()
    other = ask_one(port, chat("tell " * words, 1))
    over.set()
    stream.join()
    waits = [(after, after - before) for before, after in pairwise(stamps)]
    alone = max(wait for after, wait in waits if after < other.asked)
    beside = max((wait for after, wait in waits if after >= other.asked), default=other.first - other.asked)
    return alone, beside, other.first - other.asked


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="32,64,128,512")
    parser.add_argument("--words", type=int, default=300)
    arguments = parser.parse_args()
    for step in map(int, arguments.steps.split(",")):
        with fleet(demo_model(), f"slots = 2, batch = {step}, cache_ram_mib = 0", CONTEXT) as (_, port):
            ask_one(port, chat("Hello", 4))  # loads it
            alone, beside, prompt = gaps_beside(port, arguments.words)
        told = f"longest wait {beside:.3f} s beside it, {alone:.3f} s alone"
        print(f"batch {step:4}: a prompt took {prompt:.2f} s; {told}", flush=True)


if __name__ == "__main__":
    main()
