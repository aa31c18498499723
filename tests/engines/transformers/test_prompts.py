"""From chats to tokens, by a model's own template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from cortex.core.errors import BadRequest
from cortex.engines.base import LoadError
from cortex.engines.transformers.detokenizer import Detokenizer
from cortex.engines.transformers.prompts import Prompts
from tiny_llama import write_tiny_llama

pytestmark = pytest.mark.tp
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny"))


def with_template(folder: Path, template: str) -> Prompts:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    try:
        path.write_text(json.dumps(settings | {"chat_template": template}))
        return Prompts(folder)
    finally:
        path.write_text(json.dumps(settings))


def test_a_chat_reads_as_its_template_says(folder: Path) -> None:
    assert Prompts(folder).render({"messages": HELLO}) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_last_message_that_is_open_is_gone_on_with(folder: Path) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well, "}]

    text = Prompts(folder).render({"messages": begun, "continue_final_message": True})

    assert text.endswith("<|im_start|>assistant\nWell, ")


def test_parts_of_a_message_are_one_text(folder: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]

    assert Prompts(folder).render({"messages": parts}) == Prompts(folder).render({"messages": HELLO})


def test_a_template_without_tools_is_widened(folder: Path) -> None:
    prompts = Prompts(folder)
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

    assert prompts.knows_tools
    assert '"name": "look"' in prompts.render({"messages": HELLO, "tools": [tool]})
    assert "look" not in prompts.render({"messages": HELLO, "tools": [tool], "tool_choice": "none"})


def test_arguments_of_earlier_calls_are_objects_to_the_template(folder: Path) -> None:
    prompts = with_template(folder, "{{ messages[0].tool_calls[0].function.arguments.city }}{{ tools }}")
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"city": "Oslo"}'}}

    text = prompts.render({"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})

    assert text.startswith("Oslo")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "has no"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_a_bad_request(folder: Path, template: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        with_template(folder, template).render({"messages": HELLO})

    assert caught.value.code == "template_render_failed"


def test_a_prompt_that_opens_the_reasoning_is_noticed(folder: Path) -> None:
    opened = with_template(folder, "{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}")

    assert opened.chat_tokens({"messages": HELLO, "chat_template_kwargs": {"enable_thinking": True}})[1]
    assert not opened.chat_tokens({"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}})[1]
    assert opened.reasons


def test_text_comes_back_as_it_went_in(folder: Path) -> None:
    prompts = Prompts(folder)
    text = "Two  spaces,\n a <|im_end|> and an end."
    reader = Detokenizer(prompts.backend, prompts.special_ids)

    shown = "".join(reader.feed(token) for token in prompts.tokens(text, special=False))

    assert shown == text.replace("<|im_end|>", "")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(LoadError, match="tokenizer"):
        Prompts(tmp_path)
