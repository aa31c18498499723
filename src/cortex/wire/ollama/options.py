"""Ollama's `options`, `format` and `think` as the hub's fields.

What is for the load of a model (`num_ctx`, `num_gpu`, …) is the operator's affair here and named as ignored, as is any
option that is not known. What would change how tokens are picked is refused, unless it says what is done anyway.
"""

from __future__ import annotations

from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire import json
from cortex.wire.ollama.schema import Asked, Options

_READ = frozenset(Options.__struct_fields__)
_SAME = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "repeat_penalty")
_SAMPLING = (*_SAME, "presence_penalty", "frequency_penalty")
# The one value that is offered: what llama.cpp does unless told otherwise.
_FIXED = {"mirostat": 0, "repeat_last_n": 64}
_EFFORTS = {True: "medium", False: "none"}


def refused(where: str, why: str) -> BadRequest:
    """Return the refusal of what is at *where*."""
    return BadRequest(f"{where}: {why}", param=where, code="unsupported_parameter")


def hub_sampling(options: Options | None) -> dict[str, Any]:
    """Return the hub's fields for *options*. Raises BadRequest for those that cannot be honoured."""
    if options is None:
        return {}
    for name, value in _FIXED.items():
        if getattr(options, name) not in (None, value):
            raise refused(f"options.{name}", f"only {value} is supported")
    fields = {name: getattr(options, name) for name in _SAMPLING}
    # Nothing, or less, is no limit of one's own: the context is the only one.
    fields["max_tokens"] = options.num_predict if options.num_predict and options.num_predict > 0 else None
    fields["stop"] = options.stop or None
    return {name: value for name, value in fields.items() if value is not None}


def unheeded_options(fields: json.Fields) -> set[str]:
    """Return the names of the options in *fields*, a request's, that nothing is done about."""
    raw = bytes(fields.get("options", b"null"))
    return {f"options.{name}" for name in json.fields_of(raw).keys() - _READ} if raw != b"null" else set()


def hub_format(asked: Asked) -> dict[str, Any]:
    """Return the hub's fields for `format`: "json" or a JSON schema. Raises BadRequest."""
    wanted = json.decode_any(bytes(asked.format))
    if wanted is None or wanted == "":
        return {}
    if wanted == "json":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(wanted, dict):
        raise BadRequest("format: expected 'json' or a JSON schema", param="format")
    schema = {"name": "output", "schema": wanted, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def hub_effort(asked: Asked) -> dict[str, Any]:
    """Return the hub's field for `think`; without it, whether a model reasons is its own affair."""
    if asked.think is None:
        return {}
    return {"reasoning_effort": asked.think if isinstance(asked.think, str) else _EFFORTS[asked.think]}
