"""Anthropic's system prompt and messages as the hub's messages.

Consecutive messages of one role are one turn. The rule for `system` (and `developer`) messages, since most chat
templates allow one system message, and only as the first: those before any other message join the system prompt; a
later one is text of a user turn, at its place in the conversation. So it stands before the text of the user's message
that follows, or after that of the one before. Nothing is dropped, reordered or reworded.

A user turn's tool results become `tool` messages directly after the assistant's, in their order; what else the turn
has follows as a `user` message. `tool` messages take only text: an image in a result leaves a mark there and comes
first in the user message. A result with `is_error` begins with "Error: ".

The model's own text is joined as it was said; its thinking goes back as `reasoning_content`.
"""

from __future__ import annotations

from typing import Any, Protocol

from cortex.core.errors import BadRequest
from cortex.wire.anthropic import content
from cortex.wire.anthropic.schema import ABSENT, Block, Message, Prompt
from cortex.wire.anthropic.thinking import recalled

HubMessage = dict[str, Any]


class _Turn(Protocol):
    role: str

    def add(self, blocks: list[Block], where: str) -> None: ...

    def messages(self) -> list[HubMessage]: ...


def hub_messages(prompt: Prompt, ignored: set[str]) -> list[HubMessage]:
    """Return the hub's messages for *prompt*; what is left out is named in *ignored*. Raises BadRequest."""
    system = _system_texts(prompt, ignored)
    turns: list[_Turn] = []
    for at, message in enumerate(prompt.messages):
        where = f"messages.{at}.content"
        if not turns and message.role in ("system", "developer"):
            system.append(_system_text(message, where, ignored))
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not turns or turns[-1].role != role:
            turns.append(_AssistantTurn(ignored) if role == "assistant" else _UserTurn(ignored))
        turns[-1].add(content.blocks_of(message.content), where)
    if not turns:
        raise BadRequest("messages: at least one message that is not system is required", param="messages")
    text = content.GAP.join(filter(None, system))
    head: list[HubMessage] = [{"role": "system", "content": text}] if text else []
    return [*head, *(message for turn in turns for message in turn.messages())]


class _UserTurn:
    role = "user"

    def __init__(self, ignored: set[str]) -> None:
        self._ignored = ignored
        self._results: list[HubMessage] = []
        self._parts: list[content.Part] = []

    def add(self, blocks: list[Block], where: str) -> None:
        for at, block in enumerate(blocks):
            if block.type == "tool_result":
                self._add_result(block, f"{where}.{at}")
            else:
                self._parts += content.parts_of(block, f"{where}.{at}", self._ignored)

    def messages(self) -> list[HubMessage]:
        if self._results and not self._parts:
            return self._results
        return [*self._results, {"role": "user", "content": content.joined(self._parts)}]

    def _add_result(self, block: Block, where: str) -> None:
        if not block.tool_use_id:
            raise BadRequest(f"{where}.tool_use_id: Field required", param=f"{where}.tool_use_id")
        if isinstance(block.content, dict):
            raise content.refused(f"{where}.content", "expected a string or a list of blocks")
        if block.cache_control is not None:
            self._ignored.add("cache_control")
        inside = content.blocks_of(block.content)
        parts = [
            part
            for at, each in enumerate(inside)
            for part in content.parts_of(each, f"{where}.content.{at}", self._ignored)
        ]
        text = ("Error: " if block.is_error else "") + content.text_of(parts)
        self._results.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        self._parts += content.images_of(parts)


class _AssistantTurn:
    role = "assistant"

    def __init__(self, ignored: set[str]) -> None:
        self._ignored = ignored
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def add(self, blocks: list[Block], where: str) -> None:
        self._texts.append("".join([self._read(block, f"{where}.{at}") for at, block in enumerate(blocks)]))

    def messages(self) -> list[HubMessage]:
        text = content.GAP.join(filter(None, self._texts))
        message: HubMessage = {"role": "assistant", "content": text or (None if self._calls else "")}
        if thought := "".join(self._thoughts):
            message["reasoning_content"] = thought
        if self._calls:
            message["tool_calls"] = self._calls
        return [message]

    def _read(self, block: Block, where: str) -> str:
        """Return the text of *block*, and keep what else it is."""
        match block.type:
            case "text":
                return content.text_of(content.parts_of(block, where, self._ignored))
            case "thinking":
                self._thoughts.append(recalled(block.thinking or "", block.signature or ""))
            case "tool_use":
                self._calls.append(_call(block, where))
            case kind if kind == "redacted_thinking" or content.is_server_side(kind):
                self._ignored.add(f"messages.{kind}")
            case kind:
                raise content.refused(f"{where}.type", f"{kind[:40]!r} is not supported in an assistant's message")
        if block.cache_control is not None:
            self._ignored.add("cache_control")
        return ""


def _call(block: Block, where: str) -> dict[str, Any]:
    for name, value in (("id", block.id), ("name", block.name)):
        if not value:
            raise BadRequest(f"{where}.{name}: Field required", param=f"{where}.{name}")
    arguments = "{}" if block.input == ABSENT else bytes(block.input).decode()
    if not arguments.startswith("{"):
        raise BadRequest(f"{where}.input: Input should be a valid dictionary", param=f"{where}.input")
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _system_texts(prompt: Prompt, ignored: set[str]) -> list[str]:
    return [_only_text(block, f"system.{at}", ignored) for at, block in enumerate(content.blocks_of(prompt.system))]


def _system_text(message: Message, where: str, ignored: set[str]) -> str:
    blocks = content.blocks_of(message.content)
    texts = [_only_text(block, f"{where}.{at}", ignored) for at, block in enumerate(blocks)]
    return content.GAP.join(filter(None, texts))


def _only_text(block: Block, where: str, ignored: set[str]) -> str:
    if block.type != "text":
        raise content.refused(f"{where}.type", f"{block.type[:40]!r} is not supported in a system prompt; use text")
    return content.text_of(content.parts_of(block, where, ignored))
