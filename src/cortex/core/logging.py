"""Structured logs: key=value on a terminal, JSON otherwise, filtered like `info,cortex.neuron=debug`."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cortex.core.errors import ConfigError
from cortex.core.log_writer import LineWriter

TRACE = 5
LEVELS = {"trace": TRACE, "debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "critical": 50, "off": 100}
# Lines of this level and above are written before anything else happens: what comes next may be the end.
FLUSHED_FROM = LEVELS["warning"]


class LevelFilter:
    """Which events are heard: a default level, and levels for dotted logger names and all below them."""

    def __init__(self, text: str) -> None:
        """Read *text* such as `info,cortex.neuron=debug`; raises ConfigError naming the part that is wrong."""
        self.default = LEVELS["info"]
        self.by_name: dict[str, int] = {}
        self._found: dict[str, int] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, level = (piece.strip() for piece in part.rpartition("="))
            if level.lower() not in LEVELS:
                raise ConfigError(f"log filter {text!r}: {level!r} is not a level; use one of {', '.join(LEVELS)}")
            if equals and not name:
                raise ConfigError(f"log filter {text!r}: {part!r} names no logger")
            if equals:
                self.by_name[name] = LEVELS[level.lower()]
            else:
                self.default = LEVELS[level.lower()]

    def level_of(self, name: str) -> int:
        """Return the lowest level that is heard from logger *name*; the longest matching prefix decides."""
        level = self._found.get(name)
        if level is None:
            level = self._found[name] = self._find(name)
        return level

    def _find(self, name: str) -> int:
        while name:
            if name in self.by_name:
                return self.by_name[name]
            name = name.rpartition(".")[0]
        return self.default

    @property
    def lowest(self) -> int:
        """The lowest level that any logger may emit."""
        return min(self.default, *self.by_name.values()) if self.by_name else self.default


class Logger:
    """A named logger; one event with keys a call. `isEnabledFor` lets hot paths skip the keys."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _emit(self, level: int, event: str, keys: dict[str, Any]) -> None:
        if level < _state.filter.level_of(self._name):
            return
        _state.tell(level, {"event": event, "logger": self._name, **keys})

    def enabled(self, level: int) -> bool:
        """Whether an event of *level* would be heard."""
        return level >= _state.filter.level_of(self._name)

    def tell_past(self, lines: Iterable[msgspec.Struct]) -> None:
        """Tell, at info, of what has happened before: whole *lines*, their fields as they are to be read.

        What is UNSET in one is left out. Each begins with `timestamp` (see `stamp`), `level`, `event` and `logger`.
        """
        if self.enabled(20):
            _state.tell_past(lines)

    def trace(self, event: str, **keys: Any) -> None:
        """Every token; off unless asked for."""
        self._emit(TRACE, event, keys)

    def debug(self, event: str, **keys: Any) -> None:
        """What a developer of this part wants to see."""
        self._emit(10, event, keys)

    def info(self, event: str, **keys: Any) -> None:
        """What an operator wants to see."""
        self._emit(20, event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        """Something is off; service goes on."""
        self._emit(30, event, keys)

    def error(self, event: str, **keys: Any) -> None:
        """Something was lost; somebody should look."""
        self._emit(40, event, keys)


class _State:
    """The process's logging configuration; `configure` is its only writer."""

    def __init__(self) -> None:
        self.filter = LevelFilter("info")
        self.clock = _Clock()
        self.write(LineWriter(sys.stderr), _json)
        atexit.register(lambda: self.writer.flush())

    def write(self, writer: LineWriter, renderer: Processor) -> None:
        """Write to *writer* from now on, as *renderer* renders."""
        self.writer = writer
        self.processors: list[Processor] = [renderer]
        structlog.configure(processors=self.processors)  # for those who take processors out for a while, as tests do

    def tell_past(self, lines: Iterable[msgspec.Struct]) -> None:
        """Write *lines*; as JSON they are encoded as they stand, a few times faster than as events."""
        for line in lines:
            if self.processors == [_json]:
                with suppress(ValueError):
                    self.writer.msg(_encoder.encode(line).decode())
            else:
                fields = msgspec.structs.asdict(line)
                self._write_line({name: value for name, value in fields.items() if value is not msgspec.UNSET})

    def tell(self, level: int, event: EventDict) -> None:
        """Render *event* and write it, behind when it was and how grave it is.

        structlog's processors are called here: its bound logger is for contexts, and costs as much as all of them.
        """
        line: Any = {"timestamp": self.clock.at(time.time_ns()), "level": _NAMES[level], **event}
        if "exc_info" in line:
            line = structlog.processors.format_exc_info(None, "msg", line)
        self._write_line(line)
        if level >= FLUSHED_FROM:
            self.writer.flush()

    def _write_line(self, line: Any) -> None:
        """Render *line* and write it. What is taken out, or cannot be encoded, costs the line, never its request."""
        with suppress(structlog.DropEvent, ValueError):
            for processor in self.processors:
                line = processor(None, "msg", line)
            self.writer.msg(line)


_encoder = msgspec.json.Encoder(enc_hook=str)
_NAMES = {TRACE: "trace", 10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


def get_logger(name: str) -> Logger:
    """Return the logger called *name*, a module's dotted name."""
    return Logger(name)


def stamp(seconds: float) -> str:
    """Return the time *seconds* after 1970 began as lines have it."""
    return _state.clock.at(int(seconds * 1e9))


def configure(level_filter: str = "info", *, stream: TextIO | None = None, json: bool | None = None) -> None:
    """Send events to *stream* (stderr), as JSON unless it is a terminal or *json* says otherwise."""
    stream = stream or sys.stderr
    as_json = not stream.isatty() if json is None else json
    _state.filter = LevelFilter(level_filter)
    _state.writer.flush()
    renderer = _json if as_json else _KeyValue(colour=stream.isatty())
    _state.write(LineWriter(stream), renderer)
    _route_standard_logging()


def configure_log(level: str, form: str, env: Mapping[str, str]) -> None:
    """Log at *level*, or as `CORTEX_LOG` in *env* says, in *form*: auto, json or text. Raises ConfigError."""
    configure(env.get("CORTEX_LOG") or level, json={"json": True, "text": False}.get(form))


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encoder.encode(event).decode()


class _Clock:
    """Tells the time as lines have it; the seconds' part is written once a second."""

    def __init__(self) -> None:
        self._second, self._text = 0, ""

    def at(self, nanoseconds: int) -> str:
        """Return the time so many *nanoseconds* after 1970 began, in UTC and microseconds."""
        second, nanoseconds = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{nanoseconds // 1000:06d}Z"


class _KeyValue:
    """Render `time level logger event key=value …` on one line."""

    def __init__(self, *, colour: bool) -> None:
        self._bold, self._dim, self._off = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colour else ("", "", "")

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        head = f"{self._dim}{event.pop('timestamp', '')}{self._off} {event.pop('level', ''):7}"
        source, name = event.pop("logger", ""), event.pop("event", "")
        traceback = event.pop("exception", None)
        keys = " ".join(f"{key}={_plain(value)}" for key, value in event.items())
        line = f"{head} {self._bold}{name}{self._off} {keys} {self._dim}{source}{self._off}".rstrip()
        return f"{line}\n{traceback}" if traceback else line


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and not any(c in text for c in " \"='") else repr(text)


class _Bridge(logging.Handler):
    """Hand what libraries log through the standard module to our own sink."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((known for known in (50, 40, 30, 20, 10) if record.levelno >= known), 10)
        if level < _state.filter.level_of(record.name):
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            self.handleError(record)  # a library's format does not fit its arguments: its mistake, not its end
            return
        keys = {"exc_info": record.exc_info} if record.exc_info else {}
        _state.tell(level, {"event": text, "logger": record.name, **keys})


def _route_standard_logging() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(_state.filter.lowest, 10))
    for noisy in ("uvicorn.error", "httpx2", "httpcore2", "filelock", "huggingface_hub", "urllib3", "asyncio"):
        quiet = max(logging.WARNING, _state.filter.default)
        logging.getLogger(noisy).setLevel(max(_state.filter.by_name.get(noisy, quiet), 10))


_state = _State()
