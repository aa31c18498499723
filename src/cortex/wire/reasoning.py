"""Decide what `reasoning_effort` and `chat_template_kwargs` set in a model's chat template, and what they cannot.

Whether and how long a model reasons is decided by its template, where that has a variable for it: `enable_thinking`
(Qwen3, GLM) and `thinking` (DeepSeek V3.1, Granite) switch it, `reasoning_effort` (gpt-oss) has three levels. An effort
of `none` or `minimal` switches reasoning off. What the client sets by name wins over what its effort stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from msgspec import Meta

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Scalar = bool | int | float | str | None
TemplateKwargs = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")], Scalar], Meta(max_length=32)
]

SWITCHES = ("enable_thinking", "thinking")
LEVEL = "reasoning_effort"
_LEVELS: dict[str, str] = {"minimal": "low", "low": "low", "medium": "medium"} | dict.fromkeys(
    ("high", "xhigh", "max"), "high"
)


def template_kwargs(
    effort: str | None, given: Mapping[str, Scalar] | None, variables: Collection[str]
) -> dict[str, Scalar]:
    """Return what a template with *variables* is told of a request's *effort* and of the kwargs that it was *given*."""
    told: dict[str, Scalar] = {}
    if effort is not None:
        told |= {name: effort not in ("none", "minimal") for name in SWITCHES if name in variables}
        if LEVEL in variables and effort in _LEVELS:
            told[LEVEL] = _LEVELS[effort]
    return told | {name: value for name, value in (given or {}).items() if name in variables}


def unheeded(effort: str | None, given: Collection[str] | None, variables: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a request that a template with *variables* has no use for."""
    names = [f"chat_template_kwargs.{name}" for name in given or () if name not in variables]
    if effort is not None and not template_kwargs(effort, None, variables):
        names.append(LEVEL)
    return tuple(sorted(names))
