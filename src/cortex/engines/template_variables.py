"""Which variables of a chat template a request can set; read off its text, without rendering it.

A name that the template never assigns is free, and so is one that it asks whether it is defined, since that is how
templates give their variables a default.
"""

from __future__ import annotations

import re

_BLOCK = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_FILTER = re.compile(r"\|\s*\w+|\bis\s+(?:not\s+)?\w+")
_DEFINED = re.compile(r"\b([A-Za-z_]\w*)\s+is\s+(?:not\s+)?defined\b")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*\b(?!\s*(?:\(|=(?!=)))")
_ASSIGNED = re.compile(r"\b(?:set|macro)\s+([A-Za-z_]\w*)|\bfor\s+([A-Za-z_]\w*)(?:\s*,\s*([A-Za-z_]\w*))?\s+in\b")
_WORDS = frozenset({"if", "elif", "else", "endif", "for", "in", "endfor", "loop", "break", "continue"}) | frozenset(
    {"set", "endset", "macro", "endmacro", "call", "endcall", "filter", "endfilter", "generation", "endgeneration"}
    | {"not", "and", "or", "is", "true", "false", "none", "True", "False", "None"}
)
# What the server itself gives every template, and a request as messages and tools.
_GIVEN = frozenset(
    {"messages", "tools", "functions", "documents", "add_generation_prompt", "bos_token", "eos_token", "content"}
)


def variables_of(template: str | None) -> frozenset[str]:
    """Return the names that *template* reads and that a request may give it."""
    if template is None:
        return frozenset()
    blocks = [_STRING.sub("''", block) for block in _BLOCK.findall(template)]
    code = "\n".join(blocks)
    assigned = {name for names in _ASSIGNED.findall(code) for name in names if name}
    read = set(_NAME.findall(_FILTER.sub("", code))) - assigned
    return frozenset((read | set(_DEFINED.findall(code))) - _WORDS - _GIVEN)
