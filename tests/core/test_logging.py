from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cortex.core import logging as subject
from cortex.core.errors import ConfigError
from cortex.core.logging import TRACE, LevelFilter, configure, get_logger


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's own: leave it as it was found."""
    root, held_filter, held = logging.getLogger(), subject._state.filter, structlog.get_config()
    writer, processors = subject._state.writer, subject._state.processors
    handlers, level = list(root.handlers), root.level
    named = {name: it.level for name, it in logging.root.manager.loggerDict.items() if isinstance(it, logging.Logger)}
    yield
    subject._state.filter, subject._state.writer, subject._state.processors = held_filter, writer, processors
    structlog.configure(**held)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, it in logging.root.manager.loggerDict.items():
        if isinstance(it, logging.Logger):
            it.setLevel(named.get(name, logging.NOTSET))


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines(stream)]


@pytest.mark.parametrize(
    ("text", "name", "level"),
    [
        ("", "any", 20),
        ("warning", "any", 30),
        ("WARN", "any", 30),
        ("trace", "any", TRACE),
        ("off", "any", 100),
        ("info,cortex.neuron=debug", "cortex.neuron", 10),
        ("info,cortex.neuron=debug", "cortex.neuron.models", 10),
        ("info,cortex.neuron=debug", "cortex.neurons", 20),
        ("info,cortex.neuron=debug", "cortex", 20),
        ("cortex=error,cortex.gateway=trace", "cortex.gateway.relay", TRACE),
        ("cortex=error,cortex.gateway=trace", "cortex.neuron", 40),
        ("cortex=error,cortex.gateway=trace", "uvicorn", 20),
        ("cortex.gateway=trace,cortex=error", "cortex.gateway", TRACE),
        (" debug , cortex.neuron = off ", "cortex.neuron", 100),
        ("debug,info", "any", 20),
    ],
)
def test_the_longest_matching_name_decides_the_level(text: str, name: str, level: int) -> None:
    assert LevelFilter(text).level_of(name) == level


@pytest.mark.parametrize("text", ["loud", "info,cortex=loud", "cortex.neuron", "cortex=", "info;debug"])
def test_a_wrong_filter_is_refused_with_the_levels_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match="use one of trace, debug, info"):
        LevelFilter(text)


@pytest.mark.parametrize(
    ("text", "lowest"), [("info", 20), ("error,cortex=debug", 10), ("debug,cortex=off", 10), ("off", 100)]
)
def test_the_lowest_level_is_that_of_any_logger(text: str, lowest: int) -> None:
    assert LevelFilter(text).lowest == lowest


def test_json_output_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure("info", stream=stream, json=True)

    get_logger("cortex.test").info("model_loaded", model="m", seconds=1.5, note="two\nlines")
    get_logger("cortex.test").warning("poll_failed", node="n")

    first, second = json_lines(stream)
    assert first.pop("timestamp")
    assert first == {
        "event": "model_loaded",
        "level": "info",
        "logger": "cortex.test",
        "model": "m",
        "seconds": 1.5,
        "note": "two\nlines",
    }
    assert (second["event"], second["level"]) == ("poll_failed", "warning")


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    stream = io.StringIO()
    configure("info", stream=stream)

    get_logger("t").info("started")

    assert json_lines(stream)[0]["event"] == "started"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "key=plain"),
        ("", "key=''"),
        ("two words", "key='two words'"),
        ("a=b", "key='a=b'"),
        ('say "hi"', "key='say \"hi\"'"),
        ("a\nlevel=error", r"key='a\nlevel=error'"),
        ("\x1b[2J", r"key='\x1b[2J'"),
        ("日本", "key=日本"),
        (5, "key=5"),
        (0.12345, "key=0.123"),
        (None, "key=None"),
        ([1, 2], "key='[1, 2]'"),
    ],
)
def test_key_value_output_quotes_what_would_not_read_back(value: object, shown: str) -> None:
    stream = io.StringIO()
    configure("info", stream=stream, json=False)

    get_logger("cortex.test").info("happened", key=value)

    (line,) = lines(stream)
    assert f" info    happened {shown} " in line
    assert line.endswith("cortex.test")


def test_tokens_are_not_logged_unless_asked_for() -> None:
    stream = io.StringIO()
    configure("info,cortex.engines=trace", stream=stream, json=True)

    get_logger("cortex.gateway").trace("token", text="a")
    get_logger("cortex.gateway").debug("detail")
    get_logger("cortex.engines.llamacpp").trace("token", text="b")

    assert [(line["logger"], line["level"]) for line in json_lines(stream)] == [("cortex.engines.llamacpp", "trace")]


@pytest.mark.parametrize(("level", "heard"), [(TRACE, False), (10, False), (20, True), (40, True)])
def test_a_hot_path_can_ask_before_it_gathers_keys(level: int, heard: bool) -> None:
    configure("info", stream=io.StringIO())

    assert get_logger("any").enabled(level) is heard


def test_off_silences_everything() -> None:
    stream = io.StringIO()
    configure("off", stream=stream, json=True)

    get_logger("a").error("lost")
    logging.getLogger("library").critical("lost too")

    assert lines(stream) == []


def test_what_libraries_log_comes_out_the_same_way() -> None:
    stream = io.StringIO()
    configure("info", stream=stream, json=True)

    logging.getLogger("some.library").warning("lost %d of %d", 1, 2)
    logging.getLogger("some.library").debug("not heard")

    (line,) = json_lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("lost 1 of 2", "some.library", "warning")


def test_a_traceback_of_a_library_is_kept() -> None:
    stream = io.StringIO()
    configure("info", stream=stream, json=True)

    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("some.library").exception("failed")

    (line,) = json_lines(stream)
    assert "ValueError: why" in str(line["exception"])


def test_configuring_twice_logs_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", stream=first, json=True)
    configure("debug", stream=second, json=True)

    get_logger("ours").debug("a")
    logging.getLogger("theirs").info("b")

    assert lines(first) == []
    assert [line["event"] for line in json_lines(second)] == ["a", "b"]


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    early, stream = get_logger("early"), io.StringIO()
    configure("debug", stream=stream, json=True)

    early.debug("heard")

    assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    ("level_filter", "heard"),
    [("info", ["warning"]), ("debug", ["warning"]), ("info,httpx2=debug", ["debug", "warning"])],
)
def test_chatty_libraries_are_heard_from_warnings_on_unless_named(level_filter: str, heard: list[str]) -> None:
    stream = io.StringIO()
    configure(level_filter, stream=stream, json=True)

    logging.getLogger("httpx2").debug("GET /")
    logging.getLogger("httpx2").warning("slow")

    assert [line["level"] for line in json_lines(stream)] == heard


def test_a_disk_that_is_full_costs_the_line_and_not_the_request() -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    configure("info", stream=Full(), json=True)
    get_logger("cortex").info("lost", key=1)
    logging.getLogger("library").warning("lost too")


def test_a_terminal_that_went_away_costs_the_line_and_not_the_request() -> None:
    stream = io.StringIO()
    configure("info", stream=stream, json=True)
    stream.close()

    get_logger("cortex").info("lost")
