"""Anthropic's content blocks as the hub's content: text, and images beside it.

Texts of one turn are joined by a blank line, since many chat templates take only a string. A document is its text
under its title and context; a search result is its text under its title and source.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire.anthropic.schema import Block, Source

Part = dict[str, Any]

GAP = "\n\n"
IMAGE_MARK = "[image]"
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
# What Anthropic's own servers put into a conversation; nothing here can read most of it.
_SERVER_SIDE = frozenset({"server_tool_use", "mcp_tool_use", "container_upload", "tool_reference"})


def refused(where: str, why: str) -> BadRequest:
    """Return the refusal of what is at *where*, a path as Anthropic writes them."""
    return BadRequest(f"{where}: {why}", param=where, code="unsupported_parameter")


def blocks_of(content: str | list[Block] | None) -> list[Block]:
    """Return *content* as blocks; a string is short for one of text."""
    return [Block("text", text=content)] if isinstance(content, str) else content or []


def is_server_side(kind: str) -> bool:
    """Whether a block of type *kind* belongs to a tool that Anthropic's servers run."""
    return kind in _SERVER_SIDE or kind.endswith("_tool_result")


def text_part(text: str) -> list[Part]:
    """Return *text* as a part, or nothing if it is empty."""
    return [{"type": "text", "text": text}] if text else []


def parts_of(block: Block, where: str, ignored: set[str]) -> list[Part]:
    """Return the parts that *block* is: none if it is empty or ignored. Raises BadRequest."""
    _note_extras(block, ignored)
    match block.type:
        case "text":
            return text_part(_required(block.text, f"{where}.text"))
        case "image":
            return [_image(block.source, f"{where}.source")]
        case "document":
            return _document(block, where, ignored)
        case "search_result":
            return _search_result(block, where, ignored)
    if is_server_side(block.type):
        ignored.add(f"messages.{block.type}")
        return []
    raise refused(f"{where}.type", f"{block.type[:40]!r} is not supported here")


def joined(parts: list[Part]) -> str | list[Part]:
    """Return *parts* as the content of a message: a string unless there are images, texts side by side made one."""
    if all(part["type"] == "text" for part in parts):
        return text_of(parts)
    return [each for kind, group in groupby(parts, key=_kind) for each in _run(kind, group)]


def text_of(parts: list[Part]) -> str:
    """Return *parts* as text, with a mark where each image is."""
    return GAP.join(part["text"] if part["type"] == "text" else IMAGE_MARK for part in parts)


def images_of(parts: list[Part]) -> list[Part]:
    """Return the images among *parts*."""
    return [part for part in parts if part["type"] == "image_url"]


def _kind(part: Part) -> str:
    return str(part["type"])


def _run(kind: str, group: Iterator[Part]) -> list[Part]:
    return text_part(text_of(list(group))) if kind == "text" else list(group)


def _required(value: str | None, where: str) -> str:
    if value is None:
        raise BadRequest(f"{where}: Field required", param=where)
    return value


def _image(source: Source | str | None, where: str) -> Part:
    """Return the image at *source* by URL: base64 as a `data:` URL, another URL for the hub's own policy to judge."""
    if not isinstance(source, Source):
        raise BadRequest(f"{where}: Field required", param=where)
    if source.type == "url":
        return {"type": "image_url", "image_url": {"url": _required(source.url, f"{where}.url")}}
    if source.type != "base64":
        raise refused(f"{where}.type", f"{source.type[:40]!r} is not supported; use base64")
    if source.media_type not in _IMAGES:
        raise refused(f"{where}.media_type", "Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'")
    data = _required(source.data, f"{where}.data")
    return {"type": "image_url", "image_url": {"url": f"data:{source.media_type};base64,{data}"}}


def _document(block: Block, where: str, ignored: set[str]) -> list[Part]:
    source, head = block.source, [block.title or "", block.context or ""]
    if not isinstance(source, Source):
        raise BadRequest(f"{where}.source: Field required", param=f"{where}.source")
    if source.type == "text":
        return _under(head, text_part(_required(source.data, f"{where}.source.data")))
    if source.type == "content":
        return _under(head, _nested(source.content, f"{where}.source.content", ignored))
    what = "PDF documents" if source.type == "base64" else "documents by reference"
    raise refused(f"{where}.source", f"{what} are not supported; send the text of the document")


def _search_result(block: Block, where: str, ignored: set[str]) -> list[Part]:
    source = block.source if isinstance(block.source, str) else ""
    content = None if isinstance(block.content, dict) else block.content
    return _under([block.title or "", source], _nested(content, f"{where}.content", ignored))


def _under(head: list[str], body: list[Part]) -> list[Part]:
    title = GAP.join(line for line in head if line)
    return [*text_part(title), *body]


def _nested(content: str | list[Block] | None, where: str, ignored: set[str]) -> list[Part]:
    return [part for at, block in enumerate(blocks_of(content)) for part in parts_of(block, f"{where}.{at}", ignored)]


def _note_extras(block: Block, ignored: set[str]) -> None:
    if block.cache_control is not None:
        ignored.add("cache_control")
    if block.type == "document" and block.citations is not None:
        ignored.add("citations")
