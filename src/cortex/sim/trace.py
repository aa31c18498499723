"""A trace: one request a line, as JSON. Reads it as it comes, and says of a wrong line which one it is."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from cortex.core.errors import ConfigError

# Whoever writes a line when an answer is over writes them out of order: by no more than so many lines.
WINDOW = 10_000
LONGEST_SECONDS = 10 * 366 * 86_400

Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]


class Arrival(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A request, and when it comes, in seconds since the start.

    Requests of one `session` are turns of a conversation, each of which begins with the one before.
    """

    at: float
    model: str
    prompt_tokens: int
    completion_tokens: int
    session: str | None = None
    stream: bool = True


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An `Arrival` as written: `at` may be a time such as 2026-05-04T12:00:00Z; then the first one is the start.

    `time` is what a recording adds for people to read; nothing is decided by it.
    """

    at: float | datetime
    model: str
    prompt_tokens: Tokens
    completion_tokens: Tokens
    session: str | None = None
    stream: bool = True
    time: datetime | None = None


_Entry = tuple[float, int, _Line]
"""When a request came, in seconds of its own clock; the number of its line; and the line."""

_line = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


def read_trace(path: Path) -> Iterator[Arrival]:
    """Yield the requests of the file at *path* in order of time. Raises ConfigError naming the line."""
    try:
        with path.open("rb") as file:
            yield from in_order(file, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None


def in_order(lines: Iterable[bytes], where: str) -> Iterator[Arrival]:
    """Yield the requests of *lines* in order of time, up to WINDOW of which may stand out of it."""
    waiting: list[_Entry] = []
    origin: float | None = None
    told = 0.0
    for entry in _entries(lines, where):
        at, number, _ = entry
        if at < told:
            raise ConfigError(f"{where}:{number}: at: comes before what is {WINDOW} lines above it; sort the file")
        heapq.heappush(waiting, entry)
        if len(waiting) > WINDOW:
            origin = _origin(waiting[0]) if origin is None else origin
            told = waiting[0][0]
            yield _arrival(heapq.heappop(waiting), origin)
    while waiting:
        origin = _origin(waiting[0]) if origin is None else origin
        yield _arrival(heapq.heappop(waiting), origin)


def _entries(lines: Iterable[bytes], where: str) -> Iterator[_Entry]:
    is_dated: bool | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _line.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}:{number}: {error}") from None
        dated = isinstance(request.at, datetime)
        if is_dated is not None and dated != is_dated:
            raise ConfigError(f"{where}:{number}: at: seconds in one line and a date in another: keep one of the two")
        is_dated = dated
        yield _seconds(request.at, f"{where}:{number}"), number, request


def _seconds(at: float | datetime, where: str) -> float:
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ConfigError(f"{where}: at: a time without its zone; append Z or an offset")
        return at.timestamp()
    if not 0 <= at <= LONGEST_SECONDS:
        raise ConfigError(f"{where}: at = {at:g}: expected seconds since the start, at most ten years, or a date")
    return at


def _origin(entry: _Entry) -> float:
    return entry[0] if isinstance(entry[2].at, datetime) else 0.0


def _arrival(entry: _Entry, origin: float) -> Arrival:
    at, _, request = entry
    return Arrival(
        at=at - origin,
        model=request.model,
        prompt_tokens=request.prompt_tokens,
        completion_tokens=request.completion_tokens,
        session=request.session,
        stream=request.stream,
    )


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> int:
    """Write *arrivals* to *path*, a line each, and return how many. Raises ConfigError."""
    count = 0
    try:
        with path.open("wb") as file:
            for arrival in arrivals:
                file.write(_encoder.encode(arrival) + b"\n")
                count += 1
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    return count


def count_lines(path: Path) -> int:
    """Return how many lines the file at *path* has, for whoever wants to know how far he is. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
