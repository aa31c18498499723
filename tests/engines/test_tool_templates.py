from __future__ import annotations

import pytest

from cortex.engines.tool_templates import HERMES, can_be_widened, knows_tools, widened

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"


@pytest.mark.parametrize(
    ("template", "knows", "widens"),
    [
        (None, False, False),
        ("", False, False),
        (CHATML, False, True),
        (LLAMA2, False, False),
        ("{% if tools %}{{ tools }}{% endif %}", True, False),
        ("{% if tools %}<|im_start|>{% endif %}", True, True),
    ],
)
def test_a_template_shows_whether_it_knows_tools_and_whether_they_fit(
    template: str | None, knows: bool, widens: bool
) -> None:
    assert knows_tools(template) is knows
    assert can_be_widened(template) is widens


def test_a_widened_template_knows_tools() -> None:
    assert knows_tools(widened(CHATML))
    assert can_be_widened(widened(CHATML))


def test_without_tools_the_template_s_own_text_is_used() -> None:
    opening, hermes, plain = widened(CHATML).partition(HERMES)

    assert (opening, hermes) == ("{%- if tools -%}", HERMES)
    assert (
        plain == "{%- else -%}" + CHATML.replace("message['content']", "(message['content'] or '')") + "{%- endif -%}"
    )


def test_a_template_without_that_spelling_of_content_is_kept_to_the_letter() -> None:
    own = CHATML.replace("message['content']", "message.content")

    assert widened(own).endswith("{%- else -%}" + own + "{%- endif -%}")


def test_every_block_that_is_opened_is_closed() -> None:
    whole = widened(CHATML)

    for block in ("if", "for"):
        opened = sum(whole.count(mark + block + " ") for mark in ("{% ", "{%- "))
        assert opened == sum(whole.count(mark + "end" + block + " ") for mark in ("{% ", "{%- "))
