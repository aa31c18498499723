"""`cortex chat` shows the answer, what went wrong, and how fast it was; what was said is kept."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator

import pytest
from click.testing import CliRunner, Result

from cortex.cli import chat as chat_module
from cortex.cli.chat import Chat, converse
from cortex.cli.failures import Failure
from cortex.cli.gateway_client import Ended, Piece, Said, Waiting, read_answer
from cortex.cli.main import cortex
from cortex.cli.steps import Steps, gist
from cortex.cli.telling import Telling, printable

from .conftest import CannedGateway

ROUTE = "/v1/chat/completions"


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(**keys: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": keys}]})


END = (
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    + event({"choices": [], "usage": {"completion_tokens": 7, "prompt_tokens": 3}})
    + b"data: [DONE]\n\n"
)
ANSWER = (
    b": loading demo on local: download 40%, 3s\n\n"
    + delta(role="assistant")
    + delta(reasoning_content="Hmm.")
    + delta(content="Blue ")
    + delta(content="light.")
    + END
)


def ask(gateway: CannedGateway, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cortex, ["chat", "demo", "-e", gateway.url, *arguments], input=stdin)


def test_a_prompt_gets_one_answer_on_stdout_and_everything_else_on_stderr(gateway: CannedGateway) -> None:
    gateway.answers[ROUTE] = (200, ANSWER)

    result = ask(gateway, "--system", "Be brief.", "--max-tokens", "7", "--temperature", "0", "why", "blue?")

    assert (result.exit_code, result.stdout) == (0, "Blue light.\n")
    for part in ("loading demo on local: download 40%, 3s", "Hmm.", "TTFT", "with loading", "7 tokens", "token limit"):
        assert part in result.stderr
    assert json.loads(gateway.posted[0]) == {
        "model": "demo",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why blue?"}],
        "max_tokens": 7,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_pipe_is_one_question(gateway: CannedGateway) -> None:
    gateway.answers[ROUTE] = (200, ANSWER)

    result = ask(gateway, stdin="why?\n")

    assert result.stdout == "Blue light.\n"
    assert json.loads(gateway.posted[0])["messages"] == [{"role": "user", "content": "why?\n"}]


def test_an_empty_question_is_refused_before_it_is_asked(gateway: CannedGateway) -> None:
    result = ask(gateway, stdin=" \n")

    assert result.exit_code == 2
    assert "the question is empty" in result.stderr
    assert gateway.posted == []


def test_a_refusal_is_the_envelope_s_message(gateway: CannedGateway) -> None:
    gateway.answers[ROUTE] = (404, b'{"error":{"message":"The model does not exist","code":"model_not_found"}}')

    result = ask(gateway, "hi")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: The model does not exist\n" in result.stderr


def test_an_error_in_mid_stream_keeps_what_was_said(gateway: CannedGateway) -> None:
    gateway.answers[ROUTE] = (200, delta(content="Blue") + event({"error": {"message": "the node is gone"}}))

    result = ask(gateway, "hi")

    assert (result.exit_code, result.stdout) == (1, "Blue\n")
    assert "Error: the node is gone\n" in result.stderr


def test_a_stream_without_its_end_is_no_whole_answer(gateway: CannedGateway) -> None:
    gateway.answers[ROUTE] = (200, delta(content="Blue"))

    result = ask(gateway, "hi")

    assert result.exit_code == 1
    assert "cut short" in result.stderr


@pytest.mark.parametrize("cut", range(0, len(ANSWER), 7))
def test_an_answer_reads_the_same_wherever_it_is_cut(cut: int) -> None:
    assert list(read_answer([ANSWER[:cut], ANSWER[cut:]])) == [
        Waiting("loading demo on local: download 40%, 3s"),
        Said("Hmm.", reasoning=True),
        Said("Blue "),
        Said("light."),
        Ended("length", 7),
    ]


@pytest.mark.parametrize("body", [b"data: {\n\n", b'data: {"choices": 1}\n\n', b"data: " + b"[" * 100_000 + b"\n\n"])
def test_an_event_that_is_no_chunk_is_named(body: bytes) -> None:
    with pytest.raises(Failure, match="not a chat chunk"):
        list(read_answer([body]))


def test_a_conversation_keeps_what_was_said_when_an_answer_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends the answer, not the conversation; a question without any answer is forgotten."""
    asked: list[list[dict[str, str]]] = []

    def interrupted() -> Iterator[Piece]:
        yield Said("Half an ans")
        raise KeyboardInterrupt

    def failing() -> Iterator[Piece]:
        raise Failure("the node is gone")
        yield

    def whole() -> Iterator[Piece]:
        yield Said("Yes.")
        yield Ended("stop", 2)

    answers = iter([interrupted(), failing(), whole()])

    def stream(_endpoint: str, request: dict[str, list[dict[str, str]]]) -> Iterator[Piece]:
        asked.append(request["messages"])
        return next(answers)

    typed = iter(["one", "", "two", "three", "/exit"])
    monkeypatch.setattr(chat_module, "stream_chat", stream)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    talk = Chat("http://gateway", "demo")

    converse(talk)

    first = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Half an ans"}]
    assert asked[2] == [*first, {"role": "user", "content": "three"}]
    assert talk.history == [*asked[2], {"role": "assistant", "content": "Yes."}]
    shown = capsys.readouterr()
    assert "broken off" in shown.err
    assert "Error: the node is gone" in shown.err


@pytest.mark.parametrize("leave", [EOFError, KeyboardInterrupt])
def test_the_end_of_input_and_an_interrupt_at_the_prompt_leave(
    leave: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(_: str) -> str:
        raise leave

    monkeypatch.setattr("builtins.input", raising)

    converse(Chat("http://gateway", "demo"))


def test_figures_are_measured_from_the_question_to_the_last_token() -> None:
    clock = iter([10.0, 10.5, 11.0, 12.5])

    def pieces() -> Generator[Piece, None, None]:
        yield from (Said("a"), Said("b"), Said("c"), Ended("stop", 5))

    telling = Telling("demo", Steps(), clock=lambda: next(clock))
    telling.tell(pieces())

    assert telling.figures() == "TTFT 0.50 s · 5 tokens · 2.0 tok/s"


def test_an_answer_cannot_take_hold_of_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\x9b1mc\td\n") == "a[2Jb1mc\td\n"


def test_off_a_terminal_progress_is_news_every_ten_percent() -> None:
    assert gist("loading m on n: download 41%, 3s") == gist("loading m on n: download 49.5%, 12s")
    assert gist("loading m on n: download 39%, 3s") != gist("loading m on n: download 40%, 3s")
    assert gist("loading m on n: download, 3s") != gist("loading m on n: weights, 3s")
