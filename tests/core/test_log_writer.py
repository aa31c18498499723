"""When lines are written, and that none is lost on the way."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import threading

from cortex.core.log_writer import LineWriter


class Pieces(io.StringIO):
    """Remembers each piece that was written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def test_lines_of_one_turn_are_written_in_one_piece_at_its_end() -> None:
    stream = Pieces()

    async def run() -> None:
        writer = LineWriter(stream)
        writer.msg("a")
        writer.msg("b")
        assert stream.pieces == []
        await asyncio.sleep(0)
        assert stream.pieces == ["a\nb\n"]
        writer.msg("c")
        await asyncio.sleep(0)

    asyncio.run(run())

    assert stream.pieces == ["a\nb\n", "c\n"]


def test_without_a_loop_a_line_is_written_at_once() -> None:
    stream = Pieces()

    LineWriter(stream).msg("a")

    assert stream.pieces == ["a\n"]


def test_one_loop_after_another_is_written_from() -> None:
    stream = Pieces()
    writer = LineWriter(stream)

    async def tell(text: str) -> None:
        writer.msg(text)

    asyncio.run(tell("a"))
    asyncio.run(tell("b"))
    writer.flush()

    assert "".join(stream.pieces) == "a\nb\n"


def test_threads_write_each_line_once() -> None:
    stream = Pieces()
    writer = LineWriter(stream)

    def tell(name: int) -> None:
        for number in range(500):
            writer.msg(f"{name}-{number}")

    threads = [threading.Thread(target=tell, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    told = "".join(stream.pieces).split()
    assert sorted(told) == sorted(f"{name}-{number}" for name in range(4) for number in range(500))


ENDS = """
import asyncio, os, sys
from cortex.core.logging import configure, get_logger
configure("info", json=True)
log = get_logger("cortex")
async def main():
    log.info("first")
    {end}
asyncio.run(main())
"""


def last_words(end: str) -> str:
    """Return what a process wrote whose only task ends in *end*, in the turn in which it logs."""
    return subprocess.run(
        [sys.executable, "-c", ENDS.format(end=end)], capture_output=True, text=True, check=False
    ).stderr


def test_nothing_is_lost_at_an_exit_nor_what_came_before_trouble_at_a_crash() -> None:
    assert '"first"' in last_words("sys.exit(1)")
    assert '"first"' in last_words("raise RuntimeError")
    assert '"first"' in last_words('log.error("then"); os._exit(1)')
