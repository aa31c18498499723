"""Tools for chat templates that have none: Hermes' tool format in ChatML, used only when a request has tools.

Many small instruct models speak ChatML and ship a template that drops `tools` without a word. For those the template
is widened, not replaced: without tools in the request it renders exactly as before.

Source of the format: NousResearch's Hermes function calling, as Qwen2.5 and llama.cpp's parser know it.
"""

from __future__ import annotations

HERMES = """\
{%- if messages[0].role == 'system' -%}
{%- set cortex_system = messages[0].content -%}{%- set cortex_turns = messages[1:] -%}
{%- else -%}
{%- set cortex_system = '' -%}{%- set cortex_turns = messages -%}
{%- endif -%}
<|im_start|>system
{% if cortex_system %}{{ cortex_system }}

{% endif %}# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% for message in cortex_turns %}
{%- if message.role == 'assistant' and message.tool_calls -%}
<|im_start|>assistant
{% if message.content %}{{ message.content }}
{% endif %}
{%- for call in message.tool_calls -%}
{%- set function = call.function if call.function else call -%}
<tool_call>
{"name": "{{ function.name }}", "arguments": {{ function.arguments if function.arguments is string \
else function.arguments | tojson }}}
</tool_call>
{%- if not loop.last %}
{% endif %}
{%- endfor -%}
<|im_end|>
{% elif message.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def knows_tools(template: str | None) -> bool:
    """Whether *template* renders a request's tools itself."""
    return template is not None and "tools" in template


def can_be_widened(template: str | None) -> bool:
    """Whether *template* is ChatML, so that Hermes' format fits its turns."""
    return template is not None and "<|im_start|>" in template


def widened(template: str) -> str:
    """Return *template* with Hermes' format for requests that have tools, unchanged for all others."""
    # An assistant turn that only called a tool has no content, and a plain ChatML template adds strings.
    plain = template.replace("message['content']", "(message['content'] or '')")
    return "{%- if tools -%}" + HERMES + "{%- else -%}" + plain + "{%- endif -%}"
