from __future__ import annotations

from pathlib import Path

import pytest

from cortex.engines import gguf
from cortex.engines.template_variables import variables_of
from cortex.engines.tool_templates import HERMES

QWEN3 = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.multi_step_tool and message.role == "user" and message.content is string
       and not(message.content.startswith('<tool_response>')) %}
{%- set ns.multi_step_tool = false %}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""


@pytest.mark.parametrize(
    ("template", "variables"),
    [
        (None, set()),
        ("plain text that says thinking", set()),
        ("{{ 'enable_thinking' }} and {# thinking #}", set()),
        (QWEN3, {"enable_thinking"}),
        ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}", {"thinking"}),
        ("{% set effort = reasoning_effort or 'medium' %}{{ effort }}", {"reasoning_effort"}),
        ("{{ strftime_now('%Y') }}{{ x.thinking | trim }}", {"x"}),
        ("{% for key, value in extra.items() %}{{ key == value }}{% endfor %}", {"extra"}),
        ("{%- macro show(it) -%}{{ it }}{%- endmacro -%}{{ show(date_string) }}", {"it", "date_string"}),
        (HERMES, set()),
    ],
)
def test_the_free_names_of_a_template_are_its_variables(template: str | None, variables: set[str]) -> None:
    assert variables_of(template) == variables


@pytest.mark.e2e
def test_a_template_without_switches_has_none(demo_gguf: Path) -> None:
    assert variables_of(gguf.read_header(demo_gguf).chat_template) == set()
