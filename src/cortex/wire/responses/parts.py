"""Content parts on their way to the hub: text stays as it is, images go inline, and nothing is fetched."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cortex.core.errors import BadRequest
from cortex.wire.responses.items import Part

Content = str | list[dict[str, Any]]

SEPARATOR = "\n\n"
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_TEXT_FILES = ("data:text/", "data:application/json")


def hub_content(content: str | list[Part], at: str) -> Content:
    """Return *content* as the hub has it: one text as a string, anything else as parts. Raises BadRequest."""
    if isinstance(content, str):
        return content
    parts = [_hub_part(part, f"{at}[{index}]") for index, part in enumerate(content)]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts or ""


def text_of(content: str | list[Part], at: str, between: str = SEPARATOR) -> str:
    """Return *content*, which may only be text, as one string. Raises BadRequest."""
    if isinstance(content, str):
        return content
    return between.join(_text(part, f"{at}[{index}]") for index, part in enumerate(content))


def before(text: str, content: Content) -> Content:
    """Return *content* with *text* at its front."""
    return SEPARATOR.join((text, content)) if isinstance(content, str) else [_text_part(text), *content]


def after(content: Content, text: str) -> Content:
    """Return *content* with *text* at its end."""
    return SEPARATOR.join((content, text)) if isinstance(content, str) else [*content, _text_part(text)]


def _hub_part(part: Part, at: str) -> dict[str, Any]:
    if part.type == "input_image":
        return _image(part, at)
    if part.type == "input_file":
        return _text_part(_file(part, at))
    return _text_part(_text(part, at))


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _text(part: Part, at: str) -> str:
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type not in _TEXTS:
        raise BadRequest(f"{at}.type: {part.type[:40]!r} is not supported here", param=f"{at}.type")
    if part.text is None:
        raise BadRequest(f"{at}.text: is missing", param=f"{at}.text")
    return part.text


def _image(part: Part, at: str) -> dict[str, Any]:
    """Return an image as the hub has it, by its URL: which ones are taken is the hub's to say."""
    if part.image_url is None:
        reason = f"{at}.image_url: is missing; an image is sent as a data: URL, not as a file"
        raise BadRequest(reason, param=f"{at}.image_url", code="invalid_image_url")
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}


def _file(part: Part, at: str) -> str:
    """Return the text file in *part* under its name. Raises BadRequest for what is not text, or not inline."""
    if part.file_data is None or not part.file_data.startswith(_TEXT_FILES):
        raise BadRequest(
            f"{at}: input_file is accepted only for text, as a data: URL in file_data",
            param=at,
            code="unsupported_file",
        )
    head, _, payload = part.file_data.partition(",")
    try:
        text = base64.b64decode(payload, validate=True).decode() if head.endswith(";base64") else payload
    except (binascii.Error, ValueError):
        raise BadRequest(f"{at}.file_data: is not text in UTF-8", param=f"{at}.file_data") from None
    return SEPARATOR.join((part.filename, text)) if part.filename else text
