"""From what a client sends to the tokens that a model reads, by its own tokenizer and its own template in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer

from cortex.core.errors import BadRequest
from cortex.engines import tool_templates
from cortex.engines.base import LoadError
from cortex.engines.template_variables import variables_of
from cortex.engines.transformers.markup import MARKS, THINK, THINK_END
from cortex.wire.json import decode_any, encode
from cortex.wire.reasoning import template_kwargs


class Prompts:
    """One model's tokenizer and template. Raises LoadError if it has no tokenizer that can be used."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, ImportError, KeyError, AttributeError) as error:
            raise LoadError(f"{path.name} has no usable tokenizer: {error}") from error
        self.backend: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if self.backend is None:
            raise LoadError(f"{path.name} has no tokenizer.json, and its own kind cannot be made into one")
        # Some files ask for every text to be filled up or cut to one length, which is for us to decide.
        self.backend.no_padding()
        self.backend.no_truncation()
        self.template = self._tokenizer.chat_template if isinstance(self._tokenizer.chat_template, str) else None
        if self.template is None and isinstance(self._tokenizer.chat_template, dict):
            named = self._tokenizer.chat_template
            self.template = named.get("tool_use") or named.get("default")
        self.notes: tuple[str, ...] = ()
        self._widen()
        self.variables = variables_of(self.template)

    def _widen(self) -> None:
        """Give a ChatML template that has no tools Hermes' format for them."""
        template = self.template
        if template is None or tool_templates.knows_tools(template) or not tool_templates.can_be_widened(template):
            return
        self.template = tool_templates.widened(template)
        self.notes = ("the model's chat template has no tools: Hermes' tool format is used when a request has them",)

    @property
    def knows_tools(self) -> bool:
        """Whether tools can be put into a prompt."""
        return tool_templates.knows_tools(self.template)

    @property
    def reasons(self) -> bool:
        """Whether the model marks its reasoning, by its template or its vocabulary."""
        return THINK_END in (self.template or "") or self.backend.token_to_id(THINK) is not None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The token that the tokenizer itself says ends a text."""
        id_ = self._tokenizer.eos_token_id
        return (id_,) if isinstance(id_, int) else ()

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are not text."""
        return frozenset(self._tokenizer.all_special_ids) | {
            id_ for id_, token in self.backend.get_added_tokens_decoder().items() if token.special
        }

    @property
    def mark_ids(self) -> frozenset[int]:
        """The tokens that stand for a mark of reasoning or of a call."""
        return frozenset(id_ for mark in MARKS if (id_ := self.backend.token_to_id(mark)) is not None)

    def render(self, fields: Mapping[str, Any]) -> str:
        """Return the chat in *fields* as its template writes it, a last message that is left open as it stands.

        Raises BadRequest with what the template refuses.
        """
        if self.template is None:
            raise BadRequest("messages: this model has no chat template; ask /v1/completions", param="messages")
        tools = fields.get("tools") if fields.get("tool_choice") != "none" else None
        if tools and not self.knows_tools:
            raise BadRequest("tools: the chat template of this model has no tools", param="tools")
        messages = [_plain(message) for message in fields["messages"]]
        begun = (messages.pop().get("content") or "") if fields.get("continue_final_message") else ""
        told = template_kwargs(fields.get("reasoning_effort"), fields.get("chat_template_kwargs"), self.variables)
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                tools=tools or None,
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=False,
                **told,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise BadRequest(
                f"messages: the model's chat template refuses them: {error}",
                param="messages",
                code="template_render_failed",
            ) from None
        return text + begun

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """Return what *text* reads as; with *special*, the tokens that the tokenizer itself puts around a text."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=special).ids
        return ids

    def tokenize(self, fields: Mapping[str, Any]) -> bytes:
        """Return what a request to count tokens gets, of a text or of a chat as the template renders it."""
        if "messages" in fields:
            tokens = self.chat_tokens(fields)[0]
        elif isinstance(fields.get("content"), str):
            tokens = self.tokens(fields["content"])
        else:
            raise BadRequest("content: expected a string, or messages", param="content")
        return encode({"tokens": tokens, "count": len(tokens)})

    def chat_tokens(self, fields: Mapping[str, Any]) -> tuple[list[int], bool]:
        """Return the tokens of a chat, and whether its prompt has opened the reasoning already."""
        text = self.render(fields)
        opened = text.rfind(THINK) > text.rfind(THINK_END) and text.rstrip().endswith(THINK)
        return self.tokens(text, special=False), opened

    def piece(self, token: int, before: int | None) -> str:
        """Return *token* as text, as it reads after the token *before*."""
        if before is None:
            return str(self.backend.decode([token], skip_special_tokens=False))
        alone = self.backend.decode([before], skip_special_tokens=False)
        both = self.backend.decode([before, token], skip_special_tokens=False)
        return str(both[len(alone) :]) if both.startswith(alone) else str(self.backend.decode([token]))


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return *message* as templates know it: its text as one string, the arguments of its calls as objects."""
    plain = dict(message)
    if isinstance(plain.get("content"), list):
        plain["content"] = "".join(part.get("text") or "" for part in plain["content"])
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_with_arguments(call) for call in plain["tool_calls"]]
        plain["content"] = plain.get("content") or ""
    return plain


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments") or "{}"
    try:
        value = decode_any(arguments.encode()) if isinstance(arguments, str) else arguments
    except BadRequest:
        return call
    return {**call, "function": {**call["function"], "arguments": value}} if isinstance(value, dict) else call


def texts_of(value: Any) -> Sequence[str | list[int]]:
    """Return each input of an embedding or a completion: texts, or prompts of tokens."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [value]
    return list(value)
